"""Finds the rows of a plan that may need most memory."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from minicpmv.data.batches.plan import Rows
from minicpmv.training.start.footprint.stages import Row

__all__ = ["heaviest", "heaviest_rows"]


def heaviest_rows(rows: Rows, lengths: Any, *, of_slice: int, is_packed: bool) -> list[Row]:
    """Find the rows with most tokens, most trained tokens and most slices: often the same one.

    Args:
        rows: The rows of an epoch.
        lengths: Tokens, trained tokens and image tokens of each record.
        of_slice: Image tokens of a slice.
        is_packed: Whether a row is as wide as its records together, not as its longest times their number.
    """
    tokens, trained = lengths.lengths.astype(np.int64), lengths.num_trained.astype(np.int64)
    slices = lengths.num_image_tokens.astype(np.int64) // of_slice
    found = []
    for row in rows:
        if len(row):
            width = int(tokens[row].sum()) if is_packed else len(row) * int(tokens[row].max())
            found.append(Row(width, int(trained[row].sum()), int(slices[row].sum())))
    return heaviest(found)


def heaviest(rows: Collection[Row]) -> list[Row]:
    """Return of some rows those with most of each; nothing of none."""
    if not rows:
        return []
    most = [max(rows, key=lambda row, field=field: (row[field], row)) for field in range(len(Row._fields))]
    return list(dict.fromkeys(most))
