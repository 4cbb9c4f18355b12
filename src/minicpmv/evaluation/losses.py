"""The loss of known answers, record by record: what training's ``eval_loss`` adds up. Prompts get no logits."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch

from minicpmv.data.collation import Collator
from minicpmv.data.dataset import ConversationDataset
from minicpmv.data.records import Record
from minicpmv.errors import NotFiniteError
from minicpmv.inference.loading import LoadedModel
from minicpmv.models.finite_logits import explain_not_finite
from minicpmv.shortage import naming_shortage

__all__ = ["measure_losses"]

_SHORTER = "lower --model-max-length, which cuts images into fewer tiles, or --max-slice-nums"


def measure_losses(
    loaded: LoadedModel, records: Sequence[Record], *, max_length: int, max_slice_nums: int | None = None
) -> Iterator[tuple[float, float]]:
    """Yield the nats of each record's trained tokens, and how many these are; both weighted, as in training.

    Args:
        loaded: Who is measured.
        records: What was to be answered, every answer in them.
        max_length: Tokens of the longest record; a longer one gets fewer slices, as in training.
        max_slice_nums: Most tiles cut from one picture; the checkpoint's own number if not given.

    Raises:
        DataError: A record does not fit, or a picture cannot be read.
        NotFiniteError: The loss of a record is not finite.
        MemoryShortageError: There is no room for a record.
    """
    dataset = ConversationDataset(records, loaded.processor, max_length=max_length, max_slice_nums=max_slice_nums)
    pad_token_id = loaded.processor.tokenizer.pad_token_id
    collate = Collator(pad_token_id if isinstance(pad_token_id, int) else 0)
    for number, item in enumerate(dataset):
        what = f"one record of {len(item['input_ids']):,} tokens"
        with torch.no_grad(), naming_shortage(records[number].where(), what, fix=_SHORTER):
            batch = {name: value.to(loaded.device) for name, value in collate([item]).items()}
            weight = batch["layout"].label_weight
            loss = float(loaded.model(**batch).loss)
        if not math.isfinite(loss):
            raise NotFiniteError(f"{records[number].where()}: {explain_not_finite(loaded.model)}")
        yield loss * weight, weight
