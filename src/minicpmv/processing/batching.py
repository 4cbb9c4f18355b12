"""Tells one conversation from a batch, and joins a batch: padded on the left for generation, or as lists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import BatchFeature

from minicpmv.errors import UsageError
from minicpmv.processing.encoding import EncodedConversation
from minicpmv.processing.image_processor import MiniCPMVImageProcessor
from minicpmv.wording import name_type

__all__ = ["PAD_ID", "as_batch", "join_lists", "pad_left", "times_of_each"]

PAD_ID = 0
"""What the released processors pad with; the attention mask is what counts."""


def pad_left(
    encoded: Sequence[EncodedConversation], image_processor: MiniCPMVImageProcessor, return_tensors: str | None
) -> BatchFeature:
    """Join conversations, and normalise their pixels.

    Args:
        encoded: At least one.
        image_processor: The one that has cut their pictures.
        return_tensors: ``"pt"``, ``"np"``, or None for lists.

    Returns:
        ``input_ids`` and ``attention_mask`` [B, T] int64; with images also ``image_mask`` [B, T] bool,
        ``pixel_values`` [P, 588] float32 and ``tgt_sizes`` [S, 2] int64; with times ``temporal_ids`` [S, 2] int64; with
        three positions for each token ``mrope_position_ids`` [3, B, T] int64, 0 on padding.

    Raises:
        UsageError: ``return_tensors`` is something else.
    """
    if return_tensors not in ("pt", "np", None):
        raise UsageError(f"return_tensors: found {return_tensors!r}, expected 'pt', 'np' or None\n  fix: use 'pt'")
    length = max(len(sample.input_ids) for sample in encoded)
    input_ids = np.full((len(encoded), length), PAD_ID, dtype=np.int64)
    attention_mask = np.zeros((len(encoded), length), dtype=np.int64)
    image_mask = np.zeros((len(encoded), length), dtype=bool)
    for row, sample in enumerate(encoded):
        start = length - len(sample.input_ids)
        input_ids[row, start:] = sample.input_ids
        attention_mask[row, start:] = 1
        image_mask[row, start:] = sample.image_mask
    arrays: dict[str, NDArray[Any]] = {"input_ids": input_ids, "attention_mask": attention_mask}
    if all(sample.position_rows is not None for sample in encoded):
        arrays["mrope_position_ids"] = np.stack([_pad_positions(sample, length) for sample in encoded], axis=1)
    if image_mask.any():
        sizes = [size for sample in encoded for size in sample.tgt_sizes]
        arrays["image_mask"] = image_mask
        arrays["pixel_values"] = image_processor.normalise(np.concatenate([sample.pixel_values for sample in encoded]))
        arrays["tgt_sizes"] = np.array(sizes, dtype=np.int64)
        if any(sample.temporal_ids is not None for sample in encoded):
            arrays["temporal_ids"] = np.array([row for sample in encoded for row in _times(sample)], dtype=np.int64)
    if return_tensors == "pt":
        return BatchFeature({name: torch.from_numpy(array) for name, array in arrays.items()})
    if return_tensors == "np":
        return BatchFeature(arrays)
    return BatchFeature({name: array.tolist() for name, array in arrays.items()})


def join_lists(encoded: Sequence[EncodedConversation], image_processor: MiniCPMVImageProcessor) -> BatchFeature:
    """Join conversations as lists without padding, as transformers does unless tensors are asked for.

    Args:
        encoded: At least one.
        image_processor: The one that has cut their pictures.

    Returns:
        The same names as from :func:`pad_left`; what is counted by token has each conversation's own length.
    """
    rows = pad_left(encoded, image_processor, None)
    starts = [len(row) - len(sample.input_ids) for row, sample in zip(rows["input_ids"], encoded, strict=True)]
    for name in {"input_ids", "attention_mask", "image_mask"} & rows.keys():
        rows[name] = _unpad(rows[name], starts)
    if "mrope_position_ids" in rows:
        rows["mrope_position_ids"] = [_unpad(of_kind, starts) for of_kind in rows["mrope_position_ids"]]
    return rows


def _unpad(rows: Sequence[list[Any]], starts: Sequence[int]) -> list[list[Any]]:
    return [row[start:] for row, start in zip(rows, starts, strict=True)]


def _pad_positions(sample: EncodedConversation, length: int) -> NDArray[np.int64]:
    """Return the positions of a conversation in a row of so many tokens, 0 on the padding before it."""
    assert sample.position_rows is not None
    return np.pad(sample.position_rows, ((0, 0), (length - len(sample.input_ids), 0)))


def _times(sample: EncodedConversation) -> list[tuple[int, int]]:
    return [(1, -1)] * len(sample.tgt_sizes) if sample.temporal_ids is None else sample.temporal_ids


def as_batch(conversation: Sequence[Any]) -> tuple[Sequence[Any], bool]:
    """Return conversations as a batch, and whether they were one.

    Raises:
        UsageError: It is neither a conversation nor a batch of them.
    """
    if not isinstance(conversation, (list, tuple)) or not conversation:
        raise UsageError(
            f"conversation: found {conversation!r:.60}, expected a list of messages, or a list of such lists\n"
            "  fix: pass [{'role': 'user', 'content': ...}]"
        )
    nested = [isinstance(item, (list, tuple)) for item in conversation]
    if any(nested) and not all(nested):
        raise UsageError(
            "conversation: found messages and lists of messages side by side, expected one kind\n"
            "  fix: put every conversation of the batch into its own list"
        )
    return (conversation, True) if nested[0] else ([conversation], False)


def times_of_each(temporal_ids: Any, num_conversations: int) -> Sequence[Any]:
    """Return the ``temporal_ids`` of each conversation of a batch.

    Raises:
        UsageError: There are not as many as conversations.
    """
    if temporal_ids is None:
        return [None] * num_conversations
    if not isinstance(temporal_ids, (list, tuple)) or len(temporal_ids) != num_conversations:
        found = f"{len(temporal_ids)}" if isinstance(temporal_ids, (list, tuple)) else name_type(temporal_ids)
        raise UsageError(
            f"temporal_ids: found {found}, expected a list of {num_conversations}, one for each conversation\n"
            "  fix: write None for a conversation without times"
        )
    return temporal_ids
