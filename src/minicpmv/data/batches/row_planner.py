"""Plans the packed rows of every epoch, and which of them run at the same time. It knows no torch and no data.

The shuffled records are cut into blocks, whose rows are packed without regard to each other. So processes can share the
blocks, and each needs to keep its own rows only; one process that plans all of them gets the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from minicpmv.data.batches.packing import PatchBound, even_rows, pack_rows, split_rows
from minicpmv.data.batches.plan import Indices, Rows, draw_order
from minicpmv.data.sharing import ALONE, Sharing
from minicpmv.errors import ConfigError

__all__ = ["RowPlanner", "group_rows"]

_RECORDS_AHEAD = 512
_BLOCK = 32_768
"""Records that are packed together, at most; the last row of each block is as full as the others, see ``even_rows``."""
_STEPS_AHEAD = 64
"""Steps whose rows are grouped by cost together where records keep their order. Shuffled, those of an epoch are: that
leaves a tenth of the waiting, and kinds of records go by themselves hardly more than among 64 steps."""
_EPOCHS_TRIED = 4
_TRIED_ALONE = 250_000
"""Number of records from which only the first epoch is tried: the numbers of rows then differ by about 0.03 %."""
_SPARE = 0.001
"""Share of rows by which a later epoch may exceed the first in that case."""

Together = Callable[[Callable[[Sharing], Any]], Any]
"""Does work that processes share on each of them, and returns its result."""


@dataclass(frozen=True, slots=True)
class _Block:
    """Holds what packing needs of the records that are packed together, in shuffled order."""

    number: int
    records: Indices
    lengths: npt.NDArray[np.int32]
    costs: npt.NDArray[np.float32]
    patches: npt.NDArray[np.int32] | None
    cost_of_token: float
    """On average over all records."""


@dataclass(frozen=True, slots=True)
class _Filled:
    """Holds the rows of a block, of places in the block."""

    block: _Block
    rows: Rows

    @property
    def costs(self) -> npt.NDArray[np.float32]:
        """Return the cost of each row."""
        return self.rows.sums(self.block.costs).astype(np.float32)


def group_rows(
    costs: npt.NDArray[Any], *, num_ranks: int, window: int | None, draws: np.random.Generator | None
) -> Indices:
    """Order rows so that those that run at the same time have nearly equal cost, and no process waits long for another.

    The ``num_ranks`` rows of a step are neighbours in cost among ``window`` rows; no row moves further than these.

    Args:
        costs: Cost of each row, in any unit.
        num_ranks: Number of processes.
        window: Rows that are sorted together, a multiple of ``num_ranks``; None: all, so that extreme rows are with
            others as extreme.
        draws: Draws which process gets which row of a step; None: the oldest row is the first one's, and steps follow
            each other as their oldest rows do.

    Returns:
        [rows] Places of the rows, step by step.
    """
    places = np.arange(len(costs), dtype=np.int32)
    order = np.lexsort((costs, places // (window or len(costs)))).astype(np.int32)
    cut = len(order) // num_ranks * num_ranks
    steps = order[:cut].reshape(-1, num_ranks)
    if draws is not None:
        steps = draws.permuted(steps, axis=1)
    else:
        steps = np.sort(steps, axis=1)
        steps = steps[np.argsort(steps[:, 0], kind="stable")] if len(steps) else steps
    return np.concatenate([steps.ravel(), order[cut:]])


class RowPlanner:
    """Plans the rows of every epoch from the epoch's number alone, and always equally many.

    A learning rate schedule and a resumed run rely on equal epochs. The number of rows is the most
    that one of the first few epochs needs; with very many records, the number of the first plus one in a thousand. An
    epoch that needs fewer makes more of some rows; a later one that needs more takes the rows of the first in another
    order.

    The order of shuffled rows is shuffled, too, and no row is short because it was filled last, see :func:`even_rows`.

    Planning takes some 2.5 seconds and 60 bytes of memory for each of a million records, of all processes together.

    Args:
        lengths: Tokens of each record.
        capacity: Most tokens of a row.
        costs: Estimated work of each record, in any unit: rows are filled, and grouped into steps, so that they cost
            nearly the same. The default is the tokens.
        num_ranks: Number of processes; the number of rows is a multiple of it.
        seed: Seed of the order.
        shuffle: Whether records come in a new order in every epoch, or always in the original one; then the last row
            of a block has the rest.
        window: Records to look ahead, see :func:`pack_rows`.
        patches: Patches of each record; needed for ``max_patches`` alone.
        max_patches: Most patches of a row, or those of the record that has most; None: as many as its tokens allow.
        together: Connects the processes that share the planning; every process must then make this planner, with the
            same values, and call :meth:`own_rows`, at the same time. None: this one plans all rows.

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
        together: Together | None = None,
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
        self._patches: npt.NDArray[np.int32] | None = None
        self._most_patches = 0
        if max_patches is not None and patches is not None:
            self._patches = np.asarray(patches, np.int32)
            self._most_patches = max(max_patches, int(self._patches.max()))
        self._costs = np.asarray(self._lengths if costs is None else costs, np.float32)
        self._num_ranks = num_ranks
        self._seed = seed
        self._shuffle = shuffle
        self._window = window
        self._num_blocks = -(-len(self._lengths) // _BLOCK)
        self._together = together if num_ranks > 1 and self._num_blocks > 1 else None
        self._first: tuple[int, list[_Filled]] | None = None
        """Number of processes that have packed the first epoch to count its rows, and the blocks of this one."""
        self._counted = 0 if self._together is None else self._together(self._count_rows)

    @property
    def num_records(self) -> int:
        """Return the records of every epoch, each in one row."""
        return len(self._lengths)

    @property
    def num_rows(self) -> int:
        """Return the number of rows of every epoch."""
        self._counted = self._counted or self._count_rows(ALONE)
        return self._counted

    @property
    def fill(self) -> float:
        """Return the share of the rows' capacity that real tokens take, in every epoch."""
        return int(self._lengths.sum(dtype=np.int64)) / (self.num_rows * self.capacity)

    def rows(self, epoch: int) -> Rows:
        """Plan an epoch; process r of R runs rows r, r + R, r + 2R and so on.

        The last rows are empty only if there are fewer records than rows.
        """
        filled = self._fill_all(epoch, ALONE)
        rows = Rows.joined([Rows(each.block.records[each.rows.records], each.rows.bounds) for each in filled])
        order = self._arrange(np.concatenate([each.costs for each in filled]), epoch)
        return rows.arranged(order).padded(self.num_rows)

    def own_rows(self, epoch: int) -> Rows | None:
        """Plan an epoch together with the other processes, and return this one's row of each step, in order.

        None where one process plans all rows, since they are few or nothing connects it with others.
        """
        return None if self._together is None else self._together(lambda sharing: self._share(epoch, sharing))

    def _share(self, epoch: int, sharing: Sharing) -> Rows:
        filled = self._fill_all(epoch, sharing)
        parts = sharing.deal([[(each.block.number, each.costs) for each in filled], *[[]] * (sharing.number - 1)])
        slots = sharing.deal(self._slots_of_parts(parts, epoch) if sharing.rank == 0 else [{}] * sharing.number)[0]
        dealt = [each for part in sharing.deal(_deal_rows(filled, slots, sharing.number)) for each in part]
        steps = np.concatenate([np.zeros(0, np.int32), *(each for each, _ in dealt)])
        rows = Rows.joined([each for _, each in dealt]).arranged(np.argsort(steps))
        return rows.padded(self.num_rows // sharing.number)

    def _slots_of_parts(
        self, parts: Sequence[Sequence[tuple[int, npt.NDArray[np.float32]]]], epoch: int
    ) -> list[dict[int, Indices]]:
        """Return for each process, by the blocks that it has filled, the place of each row in the epoch."""
        costs = {number: each for part in parts for number, each in part}
        in_order = [costs[number] for number in range(self._num_blocks)]
        order = self._arrange(np.concatenate(in_order), epoch)
        places = np.empty(len(order), np.int32)
        places[order] = np.arange(len(order), dtype=np.int32)
        of_blocks = np.split(places, np.cumsum([len(each) for each in in_order])[:-1])
        return [{number: of_blocks[number] for number, _ in part} for part in parts]

    def _count_rows(self, sharing: Sharing) -> int:
        tried = _EPOCHS_TRIED if self._shuffle and self.num_records < _TRIED_ALONE else 1
        first = self._pack_all(0, sharing)
        needed = self._count_needed(first, sharing)
        self._first = (sharing.number, first)
        for epoch in range(1, tried):
            needed = max(needed, self._count_needed(self._pack_all(epoch, sharing), sharing))
        if self._shuffle and tried == 1:
            needed += int(needed * _SPARE)
        return -(-needed // self._num_ranks) * self._num_ranks

    def _count_needed(self, filled: Sequence[_Filled], sharing: Sharing) -> int:
        return sum(sharing.gather(sum(len(each.rows) for each in filled)))

    def _fill_all(self, epoch: int, sharing: Sharing) -> list[_Filled]:
        """Return the blocks that this process fills, with its share of the rows that every epoch has."""
        num_rows = self.num_rows
        if epoch == 0 and self._first is not None and self._first[0] == sharing.number:
            filled = self._first[1]
        else:
            filled = self._pack_all(epoch, sharing)
        self._first = None
        if self._count_needed(filled, sharing) > num_rows:
            filled = self._pack_all(0, sharing)
        counts = [0] * self._num_blocks
        for part in sharing.gather([(each.block.number, len(each.rows)) for each in filled]):
            for number, count in part:
                counts[number] = count
        ends = np.cumsum(counts)
        more = np.diff(ends * (num_rows - int(ends[-1])) // int(ends[-1]), prepend=0)  # split in each block
        return [self._finish(each, epoch, len(each.rows) + int(more[each.block.number])) for each in filled]

    def _finish(self, filled: _Filled, epoch: int, num_rows: int) -> _Filled:
        block = filled.block
        if not self._shuffle:
            return _Filled(block, split_rows(filled.rows, block.lengths, num_rows=num_rows))
        rows = even_rows(
            filled.rows,
            block.lengths,
            num_rows=num_rows,
            capacity=self.capacity,
            window=self._window,
            draws=np.random.default_rng([self._seed, epoch, 1, block.number]),
            bound=self._bound(block),
        )
        return _Filled(block, rows)

    def _pack_all(self, epoch: int, sharing: Sharing) -> list[_Filled]:
        """Pack the blocks of this process; the first one cuts them, and is the only one that needs all records."""
        blocks = self._cut(epoch) if sharing.rank == 0 else []
        mine = sharing.deal([blocks[rank :: sharing.number] for rank in range(sharing.number)])[0]
        del blocks
        return [_Filled(block, self._pack(block)) for block in mine]

    def _cut(self, epoch: int) -> list[_Block]:
        order = np.arange(self.num_records, dtype=np.int32)
        if self._shuffle:
            order = draw_order(self.num_records, seed=self._seed, epoch=epoch)
        cost_of_token = float(self._costs.sum(dtype=np.float64) / self._lengths.sum(dtype=np.float64))
        parts = np.array_split(order, self._num_blocks)
        return [
            _Block(
                number,
                records,
                self._lengths[records],
                self._costs[records],
                None if self._patches is None else self._patches[records],
                cost_of_token,
            )
            for number, records in enumerate(parts)
        ]

    def _pack(self, block: _Block) -> Rows:
        return pack_rows(
            block.lengths,
            np.arange(len(block.records), dtype=np.int32),
            capacity=self.capacity,
            window=self._window,
            bound=self._bound(block),
            excess=block.costs - np.float32(block.cost_of_token) * block.lengths.astype(np.float32),
        )

    def _bound(self, block: _Block) -> PatchBound | None:
        return None if block.patches is None else PatchBound(block.patches, self._most_patches)

    def _arrange(self, costs: npt.NDArray[np.float32], epoch: int) -> Indices:
        """Order the rows of all blocks in an epoch."""
        draws = np.random.default_rng([self._seed, epoch, 1]) if self._shuffle else None
        order = np.arange(len(costs), dtype=np.int32)
        if draws is not None:
            order = draws.permutation(order)
        if self._num_ranks == 1:
            return order
        window = None if draws is not None else self._num_ranks * _STEPS_AHEAD
        order = order[group_rows(costs[order], num_ranks=self._num_ranks, window=window, draws=draws)]
        if draws is not None and len(order) == self.num_rows:  # otherwise the last step has the rest
            order = draws.permutation(order.reshape(-1, self._num_ranks)).ravel()
        return order


def _deal_rows(filled: Sequence[_Filled], slots: dict[int, Indices], number: int) -> list[list[tuple[Indices, Rows]]]:
    """Return for each process the steps and records of its rows, out of some blocks."""
    dealt: list[list[tuple[Indices, Rows]]] = [[] for _ in range(number)]
    for each in filled:
        places = slots[each.block.number]
        order = np.argsort(places % number, kind="stable")
        rows = each.rows.arranged(order)
        records, steps = each.block.records[rows.records], places[order] // number
        ends = np.searchsorted((places % number)[order], np.arange(number + 1))
        for rank, (start, end) in enumerate(zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)):
            if end > start:
                bounds = rows.bounds[start : end + 1]
                chosen = Rows(records[bounds[0] : bounds[-1]], bounds - bounds[0])
                dealt[rank].append((steps[start:end], chosen))
    return dealt
