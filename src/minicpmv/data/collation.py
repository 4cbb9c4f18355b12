"""Joins items of the dataset into the model's forward arguments. Nothing is cut, and nothing depends on batch mates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from minicpmv.models.loss import IGNORED

__all__ = ["Collator"]


@dataclass(frozen=True, slots=True)
class Collator:
    """Pads on the right and puts the patches of all images one after the other."""

    pad_token_id: int
    """Stands behind the end of a shorter sample; the attention mask is 0 there, so its value does not matter."""

    def __call__(self, samples: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Join samples.

        Returns:
            ``input_ids``, ``labels`` and ``attention_mask`` [B, T] int64. If any sample has an image, also
            ``image_mask`` [B, T] bool, ``pixel_values`` [P, 588] float32 and ``tgt_sizes`` [S, 2] int64, both in batch
            order.
        """
        batch = {
            "input_ids": _pad([sample["input_ids"] for sample in samples], self.pad_token_id),
            "labels": _pad([sample["labels"] for sample in samples], IGNORED),
            "attention_mask": _pad([torch.ones_like(sample["input_ids"]) for sample in samples], 0),
        }
        if any(len(sample["tgt_sizes"]) for sample in samples):
            batch["image_mask"] = _pad([sample["image_mask"] for sample in samples], False)
            batch["pixel_values"] = torch.cat([sample["pixel_values"] for sample in samples])
            batch["tgt_sizes"] = torch.cat([sample["tgt_sizes"] for sample in samples])
        return batch


def _pad(rows: list[Tensor], value: int) -> Tensor:
    return pad_sequence(rows, batch_first=True, padding_value=value)
