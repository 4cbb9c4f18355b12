"""Prompts, positions and pixels against the released ``chat()``, exactly."""

from __future__ import annotations

import functools
import json
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from minicpmv.processing.processor import MiniCPMVProcessor
from tests.parity.cases import FIXTURES, VERSIONS
from tests.parity.test_pixels import normalised, patch_rows

ENTRIES = [
    (model, entry)
    for model in VERSIONS
    for entry in json.loads((FIXTURES / model / "inference.json").read_text(encoding="utf-8"))["entries"]
]


def with_paths(messages: list[Any], model: str) -> list[Any]:
    """Resolve the image files of stored messages."""
    if messages and isinstance(messages[0], list):
        return [with_paths(conversation, model) for conversation in messages]
    return [
        {
            "role": message["role"],
            "content": [
                part | {"image": str(FIXTURES / model / part["image"])} if part["type"] == "image" else part
                for part in message["content"]
            ],
        }
        for message in messages
    ]


def bounds(image_mask: Any) -> list[list[int]]:
    """Return [start, end) of each run of image slots, as the released ``image_bound``."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], np.asarray(image_mask, dtype=np.int8), [0]])))
    return edges.reshape(-1, 2).tolist()


def strip_rows(stored: np.ndarray) -> np.ndarray:
    """Cut a stored slice into patch rows: [3, H, W] for 2.0, [3, 14, patches * 14] for the others."""
    if stored.shape[1] == 14:
        return stored.reshape(3, 14, -1, 14).transpose(2, 0, 1, 3).reshape(-1, 588)
    return patch_rows(stored)


@functools.cache
def processor_of(model: str) -> MiniCPMVProcessor:
    return MiniCPMVProcessor.from_pretrained(FIXTURES / model)


def thinking(entry: dict[str, Any]) -> dict[str, Any]:
    """Return the switch that the released ``chat()`` of 4.5 had; if nothing is stored, the default must do."""
    return {"enable_thinking": entry["enable_thinking"]} if "enable_thinking" in entry else {}


@pytest.mark.parametrize(("model", "entry"), ENTRIES, ids=[f"{model}-{entry['name']}" for model, entry in ENTRIES])
def test_chat_inputs_equal_the_released_ones(model: str, entry: dict[str, Any]) -> None:
    processor = processor_of(model)
    stored = load_file(FIXTURES / model / "inference.safetensors")
    name = entry["name"]
    messages = with_paths(entry.get("batch") or entry["messages"], model)
    inputs = processor.apply_chat_template(messages, **thinking(entry))
    ids = np.atleast_2d(stored[f"{name}/input_ids"])
    assert inputs["input_ids"].tolist() == ids.tolist()
    mask = stored.get(f"{name}/attention_mask", np.ones_like(ids))
    assert inputs["attention_mask"].bool().tolist() == mask.astype(bool).tolist()
    if "prompt_text" in entry:
        bos = "<s>" if model == "v2" else ""  # 2.0's tokenizer adds it to the stored text, so it is in the ids above
        text = processor.apply_chat_template(messages, tokenize=False, **thinking(entry))
        assert text == bos + entry["prompt_text"]
    if "batch" in entry:
        for row, image_mask in enumerate(inputs["image_mask"]):
            assert bounds(image_mask) == stored[f"{name}/image_bound.{row}"].tolist()
        return
    if entry["n_slices"] == 0:
        assert set(inputs) == {"input_ids", "attention_mask"}
        return
    assert bounds(inputs["image_mask"][0]) == stored[f"{name}/image_bound"].tolist()
    assert inputs["tgt_sizes"].tolist() == stored[f"{name}/tgt_sizes"].tolist()
    slices = [stored[f"{name}/pixel_values_u8.{number}"] for number in range(entry["n_slices"])]
    expected = np.concatenate([normalised(strip_rows(pixels)) for pixels in slices])
    assert inputs["pixel_values"].dtype == torch.float32
    np.testing.assert_array_equal(inputs["pixel_values"].numpy(), expected)


@pytest.mark.parametrize("model", VERSIONS)
def test_a_batch_is_its_conversations_padded_on_the_left(model: str) -> None:
    """Pictures of the whole batch lie one after another; a conversation without any has no share in them."""
    processor = processor_of(model)
    entries = [entry for of, entry in ENTRIES if of == model and entry["name"] in ("image_sliced", "text_only")]
    alone = [processor.apply_chat_template(with_paths(entry["messages"], model)) for entry in entries]
    batch = processor.apply_chat_template([with_paths(entry["messages"], model) for entry in entries])
    for row, one in enumerate(alone):
        length = one["input_ids"].shape[1]
        assert batch["input_ids"][row, -length:].tolist() == one["input_ids"][0].tolist()
        assert batch["attention_mask"][row].sum() == length
    assert torch.equal(batch["pixel_values"], alone[0]["pixel_values"])
    assert int(batch["image_mask"].sum()) == len(batch["tgt_sizes"]) * processor.query_num
    assert not batch["image_mask"][1].any()
