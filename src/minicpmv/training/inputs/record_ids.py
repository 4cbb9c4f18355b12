"""Lets a batch of training know which records it is made of, so that a fault in it can name them.

The numbers travel beside the tensors from the data set through any collator, and are taken off before the model.
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
    """A map-style data set whose items carry their number."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self._dataset[index] | {_KEY: torch.tensor(index)}


class NumberedCollator:
    """Joins numbered items: the numbers into a list, which no device has to be asked for, the rest as another does.

    A skipped record, which has no tokens, has no number either.
    """

    def __init__(self, collate: Any) -> None:
        self._collate = collate

    def __call__(self, samples: Sequence[dict[str, Tensor]]) -> dict[str, Any]:
        numbers = [int(sample[_KEY]) for sample in samples if len(sample["input_ids"])]
        samples = [{name: value for name, value in sample.items() if name != _KEY} for sample in samples]
        return self._collate(samples) | {_KEY: numbers}


def take_numbers(batch: dict[str, Any]) -> list[int]:
    """Take a batch's numbers off it; none where it was made in another way."""
    return batch.pop(_KEY, [])
