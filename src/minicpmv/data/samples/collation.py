"""Joins items of the dataset into the model's forward arguments, without truncation or influence among batch mates.

Facts that are known here, on the CPU, are passed along as a layout, so that the model need not ask the device for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from minicpmv.models.networks.layout import lay_out
from minicpmv.models.networks.loss import IGNORED

__all__ = ["Collator", "PackedCollator"]


@dataclass(frozen=True, slots=True)
class Collator:
    """Pads on the right and puts the patches of all images one after the other."""

    pad_token_id: int
    """Padding token; the attention mask is 0 there, so its value does not matter."""

    def __call__(self, samples: Sequence[dict[str, Tensor]]) -> dict[str, Any]:
        """Join samples as :meth:`join` does, with a ``layout`` in place of the tensors that it is made of.

        Of pictures whose features are to be stored, ``picture_keys`` and ``slices_per_picture`` become lists.
        """
        return _lay_out(self.join(samples))

    def join(self, samples: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Join samples, skipped ones apart; none at all make a row of one token that trains nothing.

        Returns:
            ``input_ids``, ``labels`` and ``attention_mask`` [B, T] int64. If any sample has weights, also
            ``label_weights`` [B, T] float32, 0 where there is no label. If any sample has an image, also
            ``image_mask`` [B, T] bool, ``pixel_values`` [P, 588] uint8 and ``tgt_sizes`` [S, 2] int64, both in batch
            order, and ``pixel_table`` [3, 256] float32, the value of each byte in each channel; where features are
            known, what items have of them likewise, and neither pixels nor their table if all are. If tokens have
            three positions each, ``mrope_position_ids`` [3, B, T] int64, 0 on padding.
        """
        samples = _present(samples) or [_nothing(self.pad_token_id)]
        batch = {
            "input_ids": _pad([sample["input_ids"] for sample in samples], self.pad_token_id),
            "labels": _pad([sample["labels"] for sample in samples], IGNORED),
            "attention_mask": _pad([torch.ones_like(sample["input_ids"]) for sample in samples], 0),
        }
        if _has_weights(samples):
            batch["label_weights"] = _pad([_weights(sample) for sample in samples], 0)
        if _has_rows(samples):
            rows = [_rows(sample).T for sample in samples]
            batch["mrope_position_ids"] = pad_sequence(rows, batch_first=True).permute(2, 0, 1)
        if _has_image(samples):
            batch["image_mask"] = _pad([sample["image_mask"] for sample in samples], False)
            batch |= _join_slices(samples)
        return batch


@dataclass(frozen=True, slots=True)
class PackedCollator:
    """Concatenates samples in a single row. Their positions restart at 0, by which the model separates them."""

    pad_token_id: int
    """The only token of a row without samples."""
    compares: bool = False
    """Whether answers are compared; then a row without samples says that it has none."""

    def __call__(self, samples: Sequence[dict[str, Tensor]]) -> dict[str, Any]:
        """Join samples as :meth:`join` does, with a layout as ``Collator`` has it."""
        return _lay_out(self.join(samples))

    def join(self, samples: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Join samples, skipped ones apart; none at all make a row of one token that trains nothing.

        Returns:
            ``input_ids``, ``labels`` and ``position_ids`` [1, T] int64, and no ``attention_mask``. If any sample has
            weights, also ``label_weights`` [1, T] float32, 0 where there is no label. If any sample has an image, also
            ``image_mask`` [1, T] bool, and of slices what ``Collator`` returns. If tokens have three positions each,
            ``mrope_position_ids`` [3, 1, T] int64, which restart with each sample. Where answers are compared,
            ``segments`` [answers, 4] int64, and of their values under the reference what items hold, end to end.
        """
        samples = _present(samples) or [_nothing(self.pad_token_id)]
        positions = [torch.arange(len(sample["input_ids"])) for sample in samples]
        batch = {
            "input_ids": _join(samples, "input_ids")[None],
            "labels": _join(samples, "labels")[None],
            "position_ids": torch.cat(positions)[None],
        }
        if _has_weights(samples):
            batch["label_weights"] = torch.cat([_weights(sample) for sample in samples])[None]
        if _has_rows(samples):
            batch["mrope_position_ids"] = torch.cat([_rows(sample) for sample in samples], dim=1)[:, None]
        if any("segments" in sample for sample in samples) or self.compares:
            batch["segments"] = _join_segments(samples)
            for name in ("reference_log_probs", "answer_keys"):
                if parts := [sample[name] for sample in samples if name in sample]:
                    batch[name] = torch.cat(parts)
        if _has_image(samples):
            batch["image_mask"] = _join(samples, "image_mask")[None]
            batch |= _join_slices(samples)
        return batch


_OF_SLICES = (
    "pixel_values",
    "temporal_ids",
    "tgt_sizes",
    "tower_features",
    "image_features",
    "known_slices",
    "picture_keys",
    "slices_per_picture",
)
_READ_BY_THE_HOST = ("picture_keys", "slices_per_picture", "answer_keys")


def _lay_out(batch: dict[str, Tensor]) -> dict[str, Any]:
    for_the_host = {name: batch[name].tolist() for name in _READ_BY_THE_HOST if name in batch}
    return lay_out(batch | for_the_host)


def _present(samples: Sequence[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
    """Leave out skipped records, which have no tokens."""
    return [sample for sample in samples if len(sample["input_ids"])]


def _nothing(token_id: int) -> dict[str, Tensor]:
    """Return the input of a process that has no record left in the last step of an epoch."""
    return {
        "input_ids": torch.tensor([token_id]),
        "labels": torch.tensor([IGNORED]),
        "tgt_sizes": torch.zeros(0, 2, dtype=torch.int64),
    }


def _join_segments(samples: Sequence[dict[str, Tensor]]) -> Tensor:
    """Join where answers are; each counts the places that it continues from its record's first token."""
    joined, start = [], 0
    for sample in samples:
        length = len(sample["input_ids"])
        segments = sample.get("segments", torch.tensor([[length, 0, 0, 0]])).clone()
        segments[:, 1] += start * (segments[:, 2] > 0)
        joined.append(segments)
        start += length
    return torch.cat(joined)


def _has_weights(samples: Sequence[dict[str, Tensor]]) -> bool:
    return any("label_weights" in sample for sample in samples)


def _has_rows(samples: Sequence[dict[str, Tensor]]) -> bool:
    return any("position_rows" in sample for sample in samples)


def _rows(sample: dict[str, Tensor]) -> Tensor:
    """Return the three positions of each token, (3, T)."""
    return sample["position_rows"]


def _weights(sample: dict[str, Tensor]) -> Tensor:
    """Return the weight of each label; 1 in a sample without weights."""
    return sample["label_weights"] if "label_weights" in sample else sample["labels"].ne(IGNORED).float()


def _has_image(samples: Sequence[dict[str, Tensor]]) -> bool:
    return any(len(sample["tgt_sizes"]) for sample in samples)


def _join_slices(samples: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Join the tensors of slices, patches and pictures; not all samples have pixels, or cached features."""
    joined = {}
    for name in _OF_SLICES:
        parts = [sample[name] for sample in samples if name in sample and len(sample[name])]
        if parts and name == "temporal_ids":
            parts = [_times(sample) for sample in samples]
        if parts:
            joined[name] = torch.cat(parts)
    # One table for all, of the samples that have pixels, and have them as bytes.
    tables = [each["pixel_table"] for each in samples if "pixel_table" in each and len(each["pixel_values"])]
    if tables:
        assert all(table.equal(tables[0]) for table in tables), "one image processor has cut all pictures of a data set"
        joined["pixel_table"] = tables[0]
    return joined


def _times(sample: dict[str, Tensor]) -> Tensor:
    """Return for each slice whether it opens a block, and its time; -1 in a sample without times."""
    return (
        sample["temporal_ids"]
        if "temporal_ids" in sample
        else torch.tensor([[1, -1]] * len(sample["tgt_sizes"]), dtype=torch.int64).reshape(-1, 2)
    )


def _join(samples: Sequence[dict[str, Tensor]], name: str) -> Tensor:
    return torch.cat([sample[name] for sample in samples])


def _pad(rows: list[Tensor], value: int) -> Tensor:
    return pad_sequence(rows, batch_first=True, padding_value=value)
