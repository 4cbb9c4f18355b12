"""Plans which records share a packed row, and which rows a step, from numbers alone. It knows no torch and no data.

A packed row holds several records end to end, none of which sees another. The planner fills rows tightly, leaves no
short one behind where avoidable, and places every record exactly once; the collator makes the tensors.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from heapq import heapreplace
from typing import Any

import numpy as np
import numpy.typing as npt

from minicpmv.data.batches.plan import Indices, Rows, draw_order
from minicpmv.errors import ConfigError

__all__ = ["PatchBound", "RowPlanner", "even_rows", "group_rows", "pack_rows", "split_rows"]

Lengths = npt.NDArray[np.integer[Any]]
"""[records] Tokens of each record."""

_RECORDS_AHEAD = 512
_ROWS_AHEAD = 16
"""Batches that each process runs ahead."""
_JITTER = (0.5, 0.2, 0.0)
"""Factors by which a record may count as shorter where leftovers are distributed, tried in this order: the more, the
more one epoch differs from another; the less, the more surely everything fits."""
_EPOCHS_TRIED = 4
_TRIED_ALONE = 250_000
"""Number of records from which only the first epoch is tried: the numbers of rows then differ by about 0.03 %."""
_SPARE = 0.001
"""Share of rows by which a later epoch may exceed the first in that case."""


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


def pack_rows(lengths: Lengths, order: Indices, *, capacity: int, window: int, bound: PatchBound | None = None) -> Rows:
    """Fill rows with records, choosing each time the longest record ahead that still fits.

    A row begins with the oldest unplaced record, at place p of the order, and takes others from the places up to
    p + window - 1. So no record moves by ``window`` or more places.

    Args:
        lengths: Tokens of each record; the caller guarantees that none exceeds the capacity.
        order: Each index of ``lengths`` once, in the order without packing.
        capacity: Most tokens of a row.
        window: Places to look ahead, 1 or more.
        bound: Most patches of a row; None: as many as its tokens allow.

    Returns:
        Rows with their records in the given order.
    """
    assert not len(lengths) or lengths.max() <= capacity, "the data set refuses longer records"
    # length * 2^32 - place: sorted by length, and the oldest of equal length comes last.
    keys = lengths[order].astype(np.int64)
    keys <<= 32
    keys -= np.arange(len(order))
    ahead: list[int] = []
    taken = bytearray(len(order))
    places, bounds = array("i"), array("q", [0])
    oldest = seen = 0
    while oldest < len(order):
        end = min(oldest + window, len(order))
        for key in keys[seen:end].tolist():
            insort(ahead, key)
        seen = end
        space, row = capacity, list[int]()
        seen_by_tower = 0
        found = bisect_right(ahead, int(keys[oldest])) - 1
        while found >= 0:
            length = -(-ahead[found] >> 32)
            place = (length << 32) - ahead[found]
            if bound is not None:
                patches = int(bound.patches[order[place]])
                if row and seen_by_tower + patches > bound.most:
                    found -= 1  # the next shorter one may have fewer
                    continue
                seen_by_tower += patches
            ahead.pop(found)
            space -= length
            row.append(place)
            taken[place] = True
            found = bisect_right(ahead, space << 32) - 1
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
    capacity: int,
    window: int,
    draws: np.random.Generator,
    bound: PatchBound | None = None,
) -> Rows:
    """Spread the records of the last row over the rows before it.

    :func:`pack_rows` takes the longest that fits, so its last row is short and holds the leftovers, often
    records of one kind, which would get an update of their own in every epoch. Here the records of the last rows are
    redistributed, roughly from the longest to the shortest, each to the row with the fewest tokens. So these rows
    become nearly equal, and every kind is in all of them. If records are so large that this does not fit, fewer rows
    take part.

    Args:
        rows: Packed rows.
        lengths: Tokens of each record.
        capacity: Most tokens of a row.
        window: Most records to redistribute.
        draws: Breaks ties between rows and between records.
        bound: As for :func:`pack_rows`.

    Returns:
        The same number of rows with the same records; those within a row are in the order of ``lengths``.
    """
    num_dealt = len(rows) - int(np.searchsorted(rows.bounds, rows.bounds[-1] - window))
    while num_dealt > 1:
        first = len(rows) - num_dealt
        records = rows.records[rows.bounds[first] :]
        for jitter in _JITTER:
            counted = lengths[records] * draws.uniform(1 - jitter, 1, len(records))
            dealt = _deal(records[np.argsort(-counted)], lengths, num_rows=num_dealt, capacity=capacity)
            if dealt is not None and (bound is None or bound.holds(dealt)):
                sizes = np.concatenate([rows.sizes[:first], [len(row) for row in dealt]])
                return Rows.of_sizes(np.concatenate([rows.records[: rows.bounds[first]], *dealt]), sizes)
        num_dealt //= 2
    return rows


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


def group_rows(rows: Rows, costs: npt.NDArray[Any], *, num_ranks: int, window: int) -> Rows:
    """Group rows of nearly equal cost, so that no process waits long for another.

    Rows n * num_ranks to (n + 1) * num_ranks - 1 of the result run at the same time. The oldest row left takes the
    nearest in cost from the ``window`` rows that begin with it; no row moves by ``window`` or more places.

    Args:
        rows: Rows, each with at least one record.
        costs: Cost of each record, in any unit.
        num_ranks: Number of processes.
        window: Rows to look ahead, at least ``num_ranks``.
    """
    if num_ranks == 1:
        return rows
    cost = rows.sums(costs)
    ahead: list[tuple[float, int]] = []  # (cost, place), sorted
    taken = bytearray(len(rows))
    order = array("i")
    oldest = seen = 0
    while oldest < len(rows):
        end = min(oldest + window, len(rows))
        for pair in zip(cost[seen:end].tolist(), range(seen, end), strict=True):
            insort(ahead, pair)
        seen = end
        chosen = _nearest(ahead, bisect_left(ahead, (cost[oldest].item(), oldest)), num_ranks)
        for _, place in ahead[chosen]:
            order.append(place)
            taken[place] = True
        del ahead[chosen]
        while oldest < len(rows) and taken[oldest]:
            oldest += 1
    return rows.arranged(np.frombuffer(order, np.int32))


def _nearest(ahead: Sequence[tuple[float, int]], at: int, number: int) -> slice:
    """Find the entries nearest in cost to one entry, itself included; fewer only if there are not enough."""
    low, high, cost = at, at + 1, ahead[at][0]
    while high - low < min(number, len(ahead)):
        if high == len(ahead) or (low > 0 and cost - ahead[low - 1][0] <= ahead[high][0] - cost):
            low -= 1
        else:
            high += 1
    return slice(low, high)


class RowPlanner:
    """Plans the rows of every epoch from the epoch's number alone, and always equally many.

    A learning rate schedule and a resumed run rely on equal epochs. The number of rows is the most
    that one of the first few epochs needs; with very many records, the number of the first plus one in a thousand. An
    epoch that needs fewer splits some rows; a later one that needs more takes the rows of the first in another order.

    The order of shuffled rows is shuffled, too, and no row is short because it was filled last, see :func:`even_rows`.

    Planning takes some 3 seconds and 60 bytes of memory for each of a million records.

    Args:
        lengths: Tokens of each record.
        capacity: Most tokens of a row.
        costs: Estimated work of each record, in any unit, used only to group rows of different processes. The
            default is the tokens.
        num_ranks: Number of processes; the number of rows is a multiple of it.
        seed: Seed of the order.
        shuffle: Whether records come in a new order in every epoch, or always in the original one; then the last row
            has the rest.
        window: Records to look ahead, see :func:`pack_rows`.
        patches: Patches of each record; needed for ``max_patches`` alone.
        max_patches: Most patches of a row, or those of the record that has most; None: as many as its tokens allow.

    Raises:
        ConfigError: A record is longer than a row, or there is none.
    """

    def __init__(
        self,
        lengths: npt.ArrayLike,
        *,
        capacity: int,
        costs: npt.ArrayLike | None = None,
        num_ranks: int = 1,
        seed: int = 0,
        shuffle: bool = True,
        window: int = _RECORDS_AHEAD,
        patches: npt.ArrayLike | None = None,
        max_patches: int | None = None,
    ) -> None:
        self._lengths = np.asarray(lengths, np.int32)
        if not len(self._lengths):
            raise ConfigError("packing: found no record, expected at least one\n  fix: add records")
        longest = int(self._lengths.max())
        if longest > capacity:
            raise ConfigError(
                f"packing: found a record of {longest} tokens, expected at most the {capacity} of a row\n"
                "  fix: make the rows longer, or the records shorter"
            )
        self.capacity = capacity
        self._bound: PatchBound | None = None
        if max_patches is not None and patches is not None:
            counted = np.asarray(patches, np.int64)
            self._bound = PatchBound(counted, max(max_patches, int(counted.max())))
        self._costs = self._lengths if costs is None else np.asarray(costs)
        self._num_ranks = num_ranks
        self._seed = seed
        self._shuffle = shuffle
        self._window = window

    @property
    def num_records(self) -> int:
        """Return the records of every epoch, each in one row."""
        return len(self._lengths)

    @cached_property
    def _first(self) -> Rows:
        return self._pack(0)

    @property
    def num_rows(self) -> int:
        """Return the number of rows of every epoch."""
        return self._num_rows

    @cached_property
    def _num_rows(self) -> int:
        needed = len(self._first)
        if self._shuffle and self.num_records < _TRIED_ALONE:
            needed = max([needed, *(len(self._pack(epoch)) for epoch in range(1, _EPOCHS_TRIED))])
        elif self._shuffle:
            needed += int(needed * _SPARE)
        return -(-needed // self._num_ranks) * self._num_ranks

    @property
    def fill(self) -> float:
        """Return the share of the rows' capacity that real tokens take, in every epoch."""
        return int(self._lengths.sum(dtype=np.int64)) / (self.num_rows * self.capacity)

    def rows(self, epoch: int) -> Rows:
        """Plan an epoch; process r of R runs rows r, r + R, r + 2R and so on.

        The last rows are empty only if there are fewer records than rows.
        """
        rows = self._first if epoch == 0 else self._pack(epoch)
        if len(rows) > self.num_rows:
            rows = self._first
        rows = split_rows(rows, self._lengths, num_rows=self.num_rows)
        draws = np.random.default_rng([self._seed, epoch, 1])
        if self._shuffle:
            rows = even_rows(
                rows, self._lengths, capacity=self.capacity, window=self._window, draws=draws, bound=self._bound
            )
            rows = rows.arranged(draws.permutation(len(rows)))
        rows = group_rows(rows, self._costs, num_ranks=self._num_ranks, window=self._num_ranks * _ROWS_AHEAD)
        if self._shuffle and self._num_ranks > 1 and len(rows) == self.num_rows:  # the last step has the rest
            steps = np.arange(len(rows)).reshape(-1, self._num_ranks)
            rows = rows.arranged(draws.permutation(steps).ravel())
        return rows.padded(self.num_rows)

    def _pack(self, epoch: int) -> Rows:
        order = np.arange(self.num_records, dtype=np.int32)
        if self._shuffle:
            order = draw_order(self.num_records, seed=self._seed, epoch=epoch)
        return pack_rows(self._lengths, order, capacity=self.capacity, window=self._window, bound=self._bound)
