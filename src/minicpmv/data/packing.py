"""Which records share a row of tokens, and which rows a step. Lengths in, lists of indices out: no torch, no data.

A packed row holds several records end to end, none of which sees another. The planner fills rows closely, stays near
the order it is given, and lays out every record exactly once; the collator makes the tensors.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from minicpmv.errors import ConfigError

__all__ = ["RowPlanner", "group_rows", "pack_rows", "split_rows"]

Row = list[int]
"""Records of one row, by index; empty where a process has nothing left to do in the last step of an epoch."""

_RECORDS_AHEAD = 512
_ROWS_AHEAD = 16
"""For each process."""
_EPOCHS_TRIED = 4
"""Planning takes 1 to 2 microseconds a record, and the numbers of rows differ by a few in a thousand."""


def pack_rows(lengths: Sequence[int], order: Sequence[int], *, capacity: int, window: int) -> list[Row]:
    """Fill rows with records, each with the longest record ahead that still fits.

    A row begins with the oldest record that no row has, at place p of the order, and takes others from the places up to
    p + window - 1. So no record ends up ``window`` or more places from where it stood.

    Args:
        lengths: Tokens of each record; the caller guarantees that none exceeds the capacity.
        order: Each index of ``lengths`` once, as the records would be taken without packing.
        capacity: Most tokens of a row.
        window: Places to look ahead, 1 or more.

    Returns:
        Rows whose records stand in the given order.
    """
    assert not lengths or max(lengths) <= capacity, "the data set refuses longer records"
    ahead: list[tuple[int, int]] = []  # (length, -place), so that the oldest of equal length comes last
    taken = bytearray(len(order))
    rows: list[Row] = []
    oldest = seen = 0
    while oldest < len(order):
        for place in range(seen, min(oldest + window, len(order))):
            insort(ahead, (lengths[order[place]], -place))
        seen = max(seen, min(oldest + window, len(order)))
        space, places = capacity, list[int]()
        found = bisect_right(ahead, (lengths[order[oldest]], -oldest)) - 1
        while found >= 0:
            length, place = ahead.pop(found)
            space -= length
            places.append(-place)
            taken[-place] = True
            found = bisect_right(ahead, (space, 1)) - 1
        rows.append([order[place] for place in sorted(places)])
        while oldest < len(order) and taken[oldest]:
            oldest += 1
    return rows


def split_rows(rows: Sequence[Row], lengths: Sequence[int], *, num_rows: int) -> list[Row]:
    """Halve the longest rows until there are as many as wanted, or all hold a single record.

    The records of all rows, read one after the other, stay as they are.
    """
    result = list(rows)
    while len(result) < num_rows:
        tokens = {place: sum(lengths[i] for i in row) for place, row in enumerate(result) if len(row) > 1}
        halved = set(sorted(tokens, key=lambda place: -tokens[place])[: num_rows - len(result)])
        if not halved:
            break
        result = [part for place, row in enumerate(result) for part in (_halve(row) if place in halved else (row,))]
    return result


def _halve(row: Row) -> tuple[Row, Row]:
    middle = len(row) // 2
    return row[:middle], row[middle:]


def group_rows(rows: Sequence[Row], costs: Sequence[float], *, num_ranks: int, window: int) -> list[Row]:
    """Bring rows of nearly equal cost together, so that no process waits long for another.

    Rows n * num_ranks to (n + 1) * num_ranks - 1 of the result run at the same time. The oldest row left takes the
    nearest in cost from the ``window`` rows that begin with it; no row moves by ``window`` or more places.

    Args:
        rows: Each with at least one record.
        costs: Of each record, in any unit.
        num_ranks: Processes.
        window: Rows to look ahead, at least ``num_ranks``.
    """
    if num_ranks == 1:
        return list(rows)
    cost = [sum(costs[i] for i in row) for row in rows]
    result: list[Row] = []
    ahead: list[int] = []
    seen = 0
    while ahead or seen < len(rows):
        end = min((ahead[0] if ahead else seen) + window, len(rows))
        ahead += range(seen, end)
        seen = max(seen, end)
        oldest = ahead[0]
        chosen = sorted(ahead, key=lambda place: (place != oldest, abs(cost[place] - cost[oldest]), place))[:num_ranks]
        result += [rows[place] for place in chosen]
        ahead = [place for place in ahead if place not in chosen]
    return result


class RowPlanner:
    """Plans the rows of every epoch: each from its number alone, and always as many.

    Equal epochs are what a learning rate schedule and a resumed run count on. How many rows an epoch has is the most
    that one of the first few needs. One that needs fewer splits some of its own; a later one that needs more takes the
    rows of the first in another order.

    Args:
        lengths: Tokens of each record.
        capacity: Most tokens of a row.
        costs: Estimated work of each record, in any unit; only rows of different processes are compared by it. The
            tokens if not given.
        num_ranks: Processes; the number of rows is a multiple of it.
        seed: Of the order.
        shuffle: Whether records come in a new order in every epoch, or always as they are.
        window: Records to look ahead, see :func:`pack_rows`.

    Raises:
        ConfigError: A record is longer than a row, or there is none.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        *,
        capacity: int,
        costs: Sequence[float] | None = None,
        num_ranks: int = 1,
        seed: int = 0,
        shuffle: bool = True,
        window: int = _RECORDS_AHEAD,
    ) -> None:
        if not lengths:
            raise ConfigError("packing: found no record, expected at least one\n  fix: add records")
        if max(lengths) > capacity:
            raise ConfigError(
                f"packing: found a record of {max(lengths)} tokens, expected at most the {capacity} of a row\n"
                "  fix: make the rows longer, or the records shorter"
            )
        self._lengths = list(lengths)
        self.capacity = capacity
        self._costs = self._lengths if costs is None else list(costs)
        self._num_ranks = num_ranks
        self._seed = seed
        self._shuffle = shuffle
        self._window = window

    @property
    def num_records(self) -> int:
        """Records of every epoch, each in one row."""
        return len(self._lengths)

    @cached_property
    def _first(self) -> list[Row]:
        return self._pack(0)

    @property
    def num_rows(self) -> int:
        """Rows of every epoch."""
        return self._num_rows

    @cached_property
    def _num_rows(self) -> int:
        later = range(1, _EPOCHS_TRIED if self._shuffle else 1)
        needed = max([len(self._first), *(len(self._pack(epoch)) for epoch in later)])
        return -(-needed // self._num_ranks) * self._num_ranks

    @property
    def fill(self) -> float:
        """Share of the rows' capacity that real tokens take, in every epoch."""
        return sum(self._lengths) / (self.num_rows * self.capacity)

    def rows(self, epoch: int) -> list[Row]:
        """Plan an epoch; process r of R runs rows r, r + R, r + 2R and so on.

        Only where there are fewer records than rows, the last rows are empty.
        """
        rows = self._first if epoch == 0 else self._pack(epoch)
        if len(rows) > self.num_rows:
            rows = [self._first[i] for i in self._order(len(self._first), epoch)]
        rows = split_rows(rows, self._lengths, num_rows=self.num_rows)
        rows = group_rows(rows, self._costs, num_ranks=self._num_ranks, window=self._num_ranks * _ROWS_AHEAD)
        return rows + [[] for _ in range(self.num_rows - len(rows))]

    def _pack(self, epoch: int) -> list[Row]:
        order = self._order(len(self._lengths), epoch)
        return pack_rows(self._lengths, order, capacity=self.capacity, window=self._window)

    def _order(self, number: int, epoch: int) -> list[int]:
        if not self._shuffle:
            return list(range(number))
        return np.random.default_rng([self._seed, epoch]).permutation(number).tolist()
