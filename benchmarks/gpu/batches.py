"""Batches as training makes them: records on a disk, encoded by the checkpoint's processor, joined by the collators."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import send_to_device
from PIL import Image

from benchmarks.records import make_records
from minicpmv.data.samples.collation import Collator, PackedCollator
from minicpmv.data.samples.dataset import ConversationDataset
from minicpmv.data.sources.loading import load_records
from minicpmv.processing.processor import MiniCPMVProcessor

__all__ = ["full_row", "make_tiny_data", "pin", "send", "tiny_batch"]

_TINY_SIZES = ((56, 56), (90, 56), (150, 80))
"""Pixels: what the tests' models see in one slice, and in several."""
_LIMIT = 32768
_TOKENS_OF_A_WORD = 3.2
"""Of the tests' tokenizers, and of the made-up words; marks and a template's own words are about 40 tokens more."""
_TEMPLATE = 40


def make_tiny_data(folder: Path, *, num_records: int) -> str:
    """Write records of unequal length, every third without an image; return the file."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    with (folder / "train.jsonl").open("w", encoding="utf-8") as file:
        for index in range(num_records):
            turns = [
                {"role": "user", "content": "Say it."},
                {"role": "assistant", "content": "word " * (index % 4 + 1)},
            ]
            record: dict[str, Any] = {"id": str(index), "conversations": turns}
            if index % 3 != 2:
                width, height = _TINY_SIZES[index % 3]
                pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.png")
                record["image"] = f"{index}.png"
                turns[0]["content"] = "<image>\nWhat is this?"
            file.write(json.dumps(record) + "\n")
    return str(folder / "train.jsonl")


def tiny_batch(model: Path, data: str, *, packed: bool) -> dict[str, Any]:
    """Join all records of a file."""
    return _join(model, data, packed=packed)


def full_row(model: Path, folder: Path, *, tokens: int, samples: int, slices: int, queries: int) -> dict[str, Any]:
    """Make a packed row of about so many tokens.

    Args:
        model: The checkpoint's small files.
        folder: Where its data go.
        tokens: The most that it shall have; made-up text fills what images leave.
        samples: In the row, each with one image.
        slices: Of each image; 1, 3, 4, 5, 7, 9 or 10.
        queries: Image tokens of a slice.
    """
    room = tokens / samples - slices * (queries + 2) - _TEMPLATE
    words = max(int(room / _TOKENS_OF_A_WORD), 2)
    data = make_records(folder, samples, slices=(slices,), words=(words, words))
    return _join(model, data, packed=True)


def _join(model: Path, data: str, *, packed: bool) -> dict[str, Any]:
    processor = MiniCPMVProcessor.from_pretrained(model)
    dataset = ConversationDataset(load_records(data), processor, max_length=_LIMIT)
    collate = PackedCollator(0) if packed else Collator(0)
    return dict(collate(list(dataset)))


def pin(batch: dict[str, Any]) -> dict[str, Any]:
    """Put a batch into memory that a GPU reads by itself, as the loader's thread does."""
    return {name: each.pin_memory() for name, each in batch.items()}


def send(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Bring a batch to the device as accelerate does."""
    moved: Any = send_to_device(batch, device, non_blocking=True)
    return moved
