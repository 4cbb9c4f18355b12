"""Answers are drawn as the released ``chat()`` draws them, whatever a checkpoint's files say or leave out."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from minicpmv.models.answering.answers import generate_answers
from tests.tiny import FIXTURES


def test_a_token_is_read_once_although_the_config_wants_no_cache(tmp_path: Path) -> None:
    """MiniCPM-Llama3-V-2.5's config says so, and transformers heeds it where there is no generation_config.json."""
    checkpoint = shutil.copytree(FIXTURES / "v2_5", tmp_path / "checkpoint")
    (checkpoint / "generation_config.json").unlink()
    model: Any = AutoModelForCausalLM.from_pretrained(checkpoint).eval()
    lengths: list[int] = []
    model.llm.model.register_forward_pre_hook(
        lambda module, args, kwargs: lengths.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
    )
    ids = torch.arange(5, 15)[None]
    prompt = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    generate_answers(model, prompt, options={"max_new_tokens": 3}, end_ids=[0])
    assert lengths == [10, 1, 1]
