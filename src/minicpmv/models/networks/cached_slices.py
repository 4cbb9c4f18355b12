"""Slices that a frozen tower has seen before: what it made of them comes along, and only the others are seen.

Counts what is left to see, and joins both in the order of the slices. Where known features come from is not asked here.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

__all__ = ["is_sharded", "join_in_order", "left_to_see"]

Size = tuple[int, int]


def left_to_see(
    known: Sequence[bool], sizes: Sequence[Size], slices_per_sample: Sequence[int]
) -> tuple[list[Size], list[int]]:
    """Leave known slices out of what the tower is told.

    >>> left_to_see([False, True, True], [(1, 2), (3, 4), (5, 6)], [1, 2])
    ([(1, 2)], [1, 0])

    Args:
        known: For each slice, whether it is.
        sizes: Rows and columns of each slice.
        slices_per_sample: Slices of each sample, in order.

    Returns:
        Both arguments for the slices that are not known. A sample whose slices are known has none.

    Raises:
        ValueError: There are flags for another number of slices.
    """
    if len(known) != len(sizes):
        raise ValueError(f"known_slices are {len(known)} flags for {len(sizes)} slices of tgt_sizes")
    others = [not is_known for is_known in known]
    counts, start = [], 0
    for count in slices_per_sample:
        counts.append(sum(others[start : start + count]))
        start += count
    return list(compress(sizes, others)), counts


def join_in_order(known: Sequence[bool], rows: Sequence[int], theirs: Tensor, ours: Tensor | None) -> Tensor:
    """Put what came along and what was computed into the order of the slices.

    Args:
        known: For each slice, whether its rows came along.
        rows: Rows of each slice.
        theirs: What came along, end to end.
        ours: What was computed, end to end; None if nothing was.

    Raises:
        ValueError: What came along has another number of rows than the known slices.
    """
    num_theirs = sum(compress(rows, known))
    if len(theirs) != num_theirs:
        raise ValueError(f"known_slices have {num_theirs} rows, {len(theirs)} came along")
    if ours is None:
        return theirs
    # A known feature may be stored in the lower precision that the next layer computes in.
    pieces = {
        True: iter(theirs.to(ours).split(list(compress(rows, known)))),
        False: iter(ours.split([count for count, is_known in zip(rows, known, strict=True) if not is_known])),
    }
    return torch.cat([next(pieces[is_known]) for is_known in known])


def is_sharded(module: nn.Module) -> bool:
    """Whether running a module takes all processes at once: under ZeRO-3 and FSDP2."""
    return any(hasattr(parameter, "ds_id") or isinstance(parameter, DTensor) for parameter in module.parameters())
