"""Fills packed rows with records, from numbers alone. It knows no torch and no data.

A packed row holds several records end to end, none of which sees another. Rows are filled tightly, none is left short
where that is avoidable, and every record is in exactly one; the collator makes the tensors.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapreplace
from typing import Any

import numpy as np
import numpy.typing as npt

from minicpmv.data.batches.plan import Indices, Rows

__all__ = ["Lengths", "PatchBound", "even_rows", "pack_rows", "split_rows"]

Lengths = npt.NDArray[np.integer[Any]]
"""[records] Tokens of each record."""

_JITTER = (0.5, 0.2, 0.0)
"""Factors by which a record may count as shorter where leftovers are distributed, tried in this order: the more, the
more one epoch differs from another; the less, the more surely everything fits."""


@dataclass(frozen=True, slots=True)
class PatchBound:
    """Bounds what the vision tower sees in a row, where tokens do not: frames that share a block take patches alone."""

    patches: Lengths
    """Patches of each record; the caller guarantees that none exceeds the bound."""
    most: int
    """Patches of a row."""

    def holds(self, rows: Sequence[Indices]) -> bool:
        """Return whether no row has more."""
        return all(int(self.patches[row].sum()) <= self.most for row in rows)


def pack_rows(
    lengths: Lengths,
    order: Indices,
    *,
    capacity: int,
    window: int,
    bound: PatchBound | None = None,
    excess: npt.NDArray[np.float32] | None = None,
) -> Rows:
    """Fill rows with records, choosing each time the longest record ahead that still fits.

    A row begins with the oldest unplaced record, at place p of the order, and takes others from the places up to
    p + window - 1. So no record moves by ``window`` or more places.

    With ``excess`` rows cost nearly the same: one that costs more than its tokens do on average takes a record that
    costs less, and the other way round, as long as there is one that fits. It is as full as without.

    Args:
        lengths: Tokens of each record; the caller guarantees that none exceeds the capacity.
        order: Each index of ``lengths`` once, in the order without packing.
        capacity: Most tokens of a row.
        window: Places to look ahead, 1 or more.
        bound: Most patches of a row; None: as many as its tokens allow.
        excess: By how much each record costs more than so many tokens do on average; None: all cost alike.

    Returns:
        Rows with their records in the given order.
    """
    assert not len(lengths) or lengths.max() <= capacity, "the data set refuses longer records"
    # length * 2^32 - place: sorted by length, and the oldest of equal length comes last.
    keys = lengths[order].astype(np.int64)
    keys <<= 32
    keys -= np.arange(len(order))
    # Arrays have the buffer protocol, which their type does not state; one by one, its numbers are read faster.
    ordered: Any = np.zeros(len(order), np.float32) if excess is None else excess[order]
    costs_more = memoryview(ordered)
    ahead: tuple[list[int], list[int]] = ([], [])
    """Keys of the records that cost no more than average, and of those that do."""
    taken = bytearray(len(order))
    places, bounds = array("i"), array("q", [0])
    oldest = seen = 0
    while oldest < len(order):
        end = min(oldest + window, len(order))
        for place, key in enumerate(keys[seen:end].tolist(), seen):
            insort(ahead[costs_more[place] > 0], key)
        seen = end
        space, balance, row = capacity, 0.0, list[int]()
        seen_by_tower = 0
        side = ahead[costs_more[oldest] > 0]
        found = bisect_right(side, int(keys[oldest])) - 1
        while found >= 0:
            key = side.pop(found)
            length = -(-key >> 32)
            place = (length << 32) - key
            space -= length
            balance += costs_more[place]
            if bound is not None:
                seen_by_tower += int(bound.patches[order[place]])
            row.append(place)
            taken[place] = True
            for side in (ahead[balance < 0], ahead[balance >= 0]):
                found = bisect_right(side, space << 32) - 1
                while found >= 0 and bound is not None:
                    at = -side[found] & 0xFFFFFFFF
                    if seen_by_tower + int(bound.patches[order[at]]) <= bound.most:
                        break
                    found -= 1  # the next shorter one may have fewer
                if found >= 0:
                    break
        places.extend(sorted(row))
        bounds.append(len(places))
        while oldest < len(order) and taken[oldest]:
            oldest += 1
    return Rows(order[np.frombuffer(places, np.int32)], np.frombuffer(bounds, np.int64))


def split_rows(rows: Rows, lengths: Lengths, *, num_rows: int) -> Rows:
    """Halve the longest rows until there are as many as wanted, or all hold a single record.

    The order of the records over all rows does not change.

    Args:
        rows: Rows, each with at least one record.
        lengths: Tokens of each record.
        num_rows: Number of rows to make, at least as many as there are.
    """
    while len(rows) < num_rows:
        divisible = np.flatnonzero(rows.sizes > 1)
        if not len(divisible):
            break
        longest_first = np.argsort(-rows.sums(lengths)[divisible], kind="stable")
        halved = divisible[longest_first[: num_rows - len(rows)]]
        middles = rows.bounds[halved] + rows.sizes[halved] // 2
        rows = Rows(rows.records, np.sort(np.concatenate([rows.bounds, middles])))
    return rows


def even_rows(
    rows: Rows,
    lengths: Lengths,
    *,
    num_rows: int,
    capacity: int,
    window: int,
    draws: np.random.Generator,
    bound: PatchBound | None = None,
) -> Rows:
    """Spread the records of the last row over the rows before it, and those of the last rows over more, if wanted.

    :func:`pack_rows` takes the longest that fits, so its last row is short and holds the leftovers, often
    records of one kind, which would get an update of their own in every epoch. Here the records of the last rows are
    redistributed, roughly from the longest to the shortest, each to the row with the fewest tokens. So these rows
    become nearly equal, and every kind is in all of them. If records are so large that this does not fit, fewer rows
    take part. With ``num_rows`` a few of a hundred rows more, each is a few per cent shorter, where halving some of
    them would leave rows of one short record.

    Args:
        rows: Packed rows.
        lengths: Tokens of each record.
        num_rows: Number of rows to make, at least as many as there are.
        capacity: Most tokens of a row.
        window: Most records to redistribute.
        draws: Breaks ties between rows and between records.
        bound: As for :func:`pack_rows`.

    Returns:
        Rows with the same records, as many as wanted or with a single record each; those within a row are in the order
        of ``lengths``.
    """
    more = num_rows - len(rows)
    num_dealt = len(rows) - int(np.searchsorted(rows.bounds, rows.bounds[-1] - window))
    while num_dealt and num_dealt + more > 1:
        first = len(rows) - num_dealt
        records = rows.records[rows.bounds[first] :]
        number = min(num_dealt + more, len(records))
        for jitter in _JITTER:
            counted = lengths[records] * draws.uniform(1 - jitter, 1, len(records))
            dealt = _deal(records[np.argsort(-counted)], lengths, num_rows=number, capacity=capacity)
            if dealt is not None and (bound is None or bound.holds(dealt)):
                sizes = np.concatenate([rows.sizes[:first], [len(row) for row in dealt]])
                rows = Rows.of_sizes(np.concatenate([rows.records[: rows.bounds[first]], *dealt]), sizes)
                return split_rows(rows, lengths, num_rows=num_rows)
        num_dealt //= 2
    return split_rows(rows, lengths, num_rows=num_rows)


def _deal(records: Indices, lengths: Lengths, *, num_rows: int, capacity: int) -> list[Indices] | None:
    """Give each record to the row with the fewest tokens; None if that row has no room for it."""
    rows: list[list[int]] = [[] for _ in range(num_rows)]
    emptiest = [(0, row) for row in range(num_rows)]
    for record, length in zip(records.tolist(), lengths[records].tolist(), strict=True):
        tokens, row = emptiest[0]
        if tokens + length > capacity:
            return None
        rows[row].append(record)
        heapreplace(emptiest, (tokens + length, row))
    return [np.sort(np.array(row, np.int32)) for row in rows]
