"""Measures the loss of known answers record by record, as training's ``eval_loss`` does. Prompts get no logits."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import torch

from minicpmv.data.records.record import Record
from minicpmv.data.samples.collation import Collator
from minicpmv.data.samples.dataset import ConversationDataset
from minicpmv.errors import NotFiniteError
from minicpmv.inference.ahead import ahead
from minicpmv.inference.loading import LoadedModel
from minicpmv.machine.shortage import naming_shortage
from minicpmv.models.answering.finite_logits import explain_not_finite

__all__ = ["Losses"]

_SHORTER = "lower --model-max-length, which cuts images into fewer tiles, or --max-slice-nums"


@dataclass(frozen=True, kw_only=True, slots=True)
class Losses:
    """Measures records one by one; each is encoded while the previous one is measured."""

    max_length: int
    """Most tokens of a record; a longer one gets fewer slices, as in training."""
    max_slice_nums: int | None = None
    """Most tiles cut from one picture; by default the checkpoint's own number."""

    def __call__(self, loaded: LoadedModel, records: Iterable[Record]) -> Generator[tuple[float, float]]:
        """Yield the nats and the number of each record's trained tokens, both weighted as in training.

        Args:
            loaded: The model to measure.
            records: Whole records with all their answers.

        Raises:
            DataError: A record does not fit, or a picture cannot be read.
            NotFiniteError: The loss of a record is not finite.
            MemoryShortageError: There is too little memory for a record.
        """
        pad_token_id = loaded.processor.tokenizer.pad_token_id
        collate = Collator(pad_token_id if isinstance(pad_token_id, int) else 0)

        def encode(record: Record) -> tuple[Record, dict[str, Any]]:
            (item,) = ConversationDataset(
                [record], loaded.processor, max_length=self.max_length, max_slice_nums=self.max_slice_nums
            )
            return record, collate([item])

        with closing(ahead(records, encode)) as encoded:
            for record, batch in encoded:
                yield _measure(loaded, record, batch)


def _measure(loaded: LoadedModel, record: Record, batch: dict[str, Any]) -> tuple[float, float]:
    what = f"one record of {batch['input_ids'].numel():,} tokens"
    weight = batch["layout"].label_weight
    with torch.no_grad(), naming_shortage(record.where(), what, fix=_SHORTER):
        loss = float(loaded.model(**{name: value.to(loaded.device) for name, value in batch.items()}).loss)
    if not math.isfinite(loss):
        raise NotFiniteError(f"{record.where()}: {explain_not_finite(loaded.model)}")
    return loss * weight, weight
