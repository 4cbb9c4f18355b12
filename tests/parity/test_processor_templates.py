"""Prompts of random conversations against the chat templates in the released ``tokenizer_config.json``."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest

from tests.parity.test_prompts import processor_of

PIECES = ("", "a", " b", "\n", "c\n\n", "\n\nd ", "<think>", "</think>", "<think>\n", "\n</think>\n\n", "é 猫")
THOUGHTS = ("<think>\nhm\n</think>\n\n", "<think>\n\n</think>\n\n", "<think> </think>", "hm</think>", "")


def conversation(seed: int) -> list[dict[str, Any]]:
    chance = random.Random(seed)
    roles = ["system"] * chance.choice((0, 1)) + ["user", "assistant"] * chance.randint(0, 3)
    roles += ["user"] * (chance.choice((0, 1)) or len(roles) < 2)
    messages = []
    for role in roles:
        thought = chance.choice(THOUGHTS) if role == "assistant" else ""
        text = thought + "".join(chance.choices(PIECES, k=chance.randint(0, 4)))
        messages.append({"role": role, "content": text})
    return messages


@pytest.mark.parametrize("model", ["v2_5", "v2_6", "v4", "v4_5"])
def test_text_equals_the_released_template(model: str) -> None:
    """2.5's template ends with the assistant's header whatever it is asked for, 4.5's with the switch of chat()."""
    processor = processor_of(model)
    prompts = (True,) if model == "v2_5" else (True, False)
    thinking: tuple[dict[str, Any], ...] = ({},)
    if model == "v4_5":
        thinking = ({}, {"enable_thinking": True}, {"enable_thinking": False})
    for seed, prompt, options in itertools.product(range(150), prompts, thinking):
        messages = conversation(seed)
        asked: dict[str, Any] = {"enable_thinking": False} | options if model == "v4_5" else {}
        released = processor.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=prompt, **asked
        )
        ours = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt, **options)
        assert ours == released, (seed, messages)
