"""Plans which records are answered together: the longest first, next to those that show the same pictures.

Only lengths decide, so that the same records and limits always give the same batches.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["BATCH_SIZE", "plan_batches"]

BATCH_SIZE = 16
"""Default number of questions answered at once. On a CPU 360 questions take 10.8 s of processor time one by one, 7.6 s
with 8 at once, 7.1 s with 16, 6.7 s with 64 (the demo's model, one thread, loading included)."""


def plan_batches(
    lengths: NDArray[np.int64],
    groups: NDArray[np.int64],
    *,
    max_new_tokens: int,
    batch_size: int | None,
    max_batch_tokens: int | None = None,
) -> list[NDArray[np.int64]]:
    """Divide records into batches.

    Groups are ordered by their longest member, and members by length, so the first batch needs the most memory, and a
    group's pictures are still cached when its next member is asked.

    >>> plan_batches(np.array([5, 9, 7, 2]), np.array([0, 1, 2, 1]), max_new_tokens=1, batch_size=2)
    [array([1, 3]), array([2, 0])]

    Args:
        lengths: Tokens of each prompt.
        groups: For each record a number, the same for those that show the same pictures.
        max_new_tokens: Longest answer.
        batch_size: Most records of a batch; None for any number.
        max_batch_tokens: Most tokens of a batch, padding and longest answers included; a record that alone exceeds it
            is a batch of its own.

    Returns:
        Positions of the records of each batch.
    """
    _, first, group_of = np.unique(groups, return_index=True, return_inverse=True)
    longest = np.zeros(len(first), dtype=np.int64)
    np.maximum.at(longest, group_of, lengths)
    # Last key first: by the group's longest, then group by group, then by length, then as given.
    order = np.lexsort((np.arange(len(lengths)), -lengths, first[group_of], -longest[group_of]))
    batches: list[NDArray[np.int64]] = []
    start, width = 0, 0
    for end, position in enumerate(order.tolist()):
        count, wider = end - start + 1, max(width, int(lengths[position]))
        is_full = batch_size is not None and count > batch_size
        is_large = max_batch_tokens is not None and count * (wider + max_new_tokens) > max_batch_tokens
        if count > 1 and (is_full or is_large):
            batches.append(order[start:end])
            start, wider = end, int(lengths[position])
        width = wider
    if start < len(order):
        batches.append(order[start:])
    return batches
