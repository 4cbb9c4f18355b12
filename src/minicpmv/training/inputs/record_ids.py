"""Attaches record numbers to training batches, so that a fault in a batch can name its records.

The numbers travel with the tensors from the data set through any collator, and are removed before the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

__all__ = ["NumberedCollator", "NumberedDataset", "take_numbers"]

_KEY = "record_numbers"


class NumberedDataset(Dataset[dict[str, Tensor]]):
    """A map-style data set whose items carry their record number."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self._dataset[index] | {_KEY: torch.tensor(index)}


class NumberedCollator:
    """Joins numbered items: the numbers into a list on the host, the rest with another collator.

    A skipped record has no tokens, and so no number.
    """

    def __init__(self, collate: Any) -> None:
        self._collate = collate

    def __call__(self, samples: Sequence[dict[str, Tensor]]) -> dict[str, Any]:
        numbers = [int(sample[_KEY]) for sample in samples if len(sample["input_ids"])]
        samples = [{name: value for name, value in sample.items() if name != _KEY} for sample in samples]
        return self._collate(samples) | {_KEY: numbers}


def take_numbers(batch: dict[str, Any]) -> list[int]:
    """Remove the record numbers from a batch and return them; empty for a batch of another collator."""
    return batch.pop(_KEY, [])
