"""Eight conversations together are answered as each by itself, through transformers' own classes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

import minicpmv  # noqa: F401  registers the model and the processor
from minicpmv.models.answering.answers import end_token_ids
from tests.parity.cases import FIXTURES, VERSIONS

MAX_NEW_TOKENS = 8


def picture(version: str, name: str) -> dict[str, str]:
    return {"type": "image", "image": str(FIXTURES / version / "images" / name)}


def user(*parts: str | dict[str, str]) -> dict[str, Any]:
    content = [part if isinstance(part, dict) else {"type": "text", "text": part} for part in parts]
    return {"role": "user", "content": content}


def assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


def conversations(version: str) -> list[list[dict[str, Any]]]:
    """Eight of different lengths: none, one or several images, whole and sliced, in the first turn or later."""
    small, wide, tall = (picture(version, name) for name in ("sq_50x50.png", "wide_150x80.png", "tall_70x100.png"))
    return [
        [user("Hello world, how are you?")],
        [user(small, "What is in the image?")],
        [user(wide, "Describe this image in detail.")],
        [user(wide, tall, "Compare the two images.")],
        [user("Hi!"), assistant("I am fine."), user(tall, "And this one?")],
        [user(tall, "What?"), assistant("A cat."), user("What colour is it?")],
        [user("A"), assistant("ok"), user("Again?"), assistant("ok"), user("And now, what would you say to that?")],
        [user("First", small, "then", small, "and what comes after them?")],
    ]


@pytest.fixture(scope="module", params=VERSIONS)
def loaded(request: pytest.FixtureRequest) -> tuple[str, Any, Any]:
    folder = FIXTURES / request.param
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    return request.param, model, AutoProcessor.from_pretrained(folder)


def answer(model: Any, processor: Any, batch: list[Any]) -> list[list[int]]:
    inputs = processor.apply_chat_template(
        batch, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
    )
    ends = end_token_ids(processor.tokenizer, processor.version)
    generated = model.generate(
        **inputs, do_sample=False, max_new_tokens=MAX_NEW_TOKENS, eos_token_id=ends, pad_token_id=ends[0]
    )
    # An early end is filled up with ends[0]; what counts stands before the first end.
    rows = generated[:, inputs["input_ids"].shape[1] :].tolist()
    return [row[: next((place for place, index in enumerate(row) if index in ends), len(row))] for row in rows]


def test_eight_conversations_are_answered_together_as_alone(loaded: tuple[str, Any, Any]) -> None:
    version, model, processor = loaded
    batch = conversations(version)
    alone = [answer(model, processor, [conversation])[0] for conversation in batch]
    assert answer(model, processor, batch) == alone
    assert answer(model, processor, batch[::-1]) == alone[::-1]
    assert len({tuple(tokens) for tokens in alone}) > 4, "the answers are too alike to tell a mix-up"


def test_inputs_go_straight_into_the_model(loaded: tuple[str, Any, Any]) -> None:
    """Without generate, which would add the positions of a padded batch. Compared: the last token's logits."""
    version, model, processor = loaded
    batch = conversations(version)
    with torch.no_grad():
        together = model(**processor.apply_chat_template(batch)).logits[:, -1]
        for row, conversation in enumerate(batch):
            alone = model(**processor.apply_chat_template(conversation)).logits[0, -1]
            torch.testing.assert_close(together[row], alone, atol=1e-5, rtol=0)
