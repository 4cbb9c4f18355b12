"""Holds a plan of batches: the records of each row or batch, in two arrays instead of a million lists."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Indices", "Rows", "draw_order"]

Indices = npt.NDArray[np.int32]
"""Indices of records or rows; 4 bytes each, since no data set has two billion records."""


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Holds rows of record indices. A row becomes a list when it is requested."""

    records: Indices
    """[records] Indices of each row, one row after the other."""
    bounds: npt.NDArray[np.int64]
    """[rows + 1] Start of each row in ``records``, and end of the last one."""

    @classmethod
    def of_sizes(cls, records: Indices, sizes: npt.NDArray[np.integer[Any]]) -> Rows:
        """Cut records into rows: one of each of ``sizes``, [rows]."""
        return cls(records, np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]))

    @classmethod
    def joined(cls, parts: Sequence[Rows]) -> Rows:
        """Put the rows of several parts one after the other."""
        records = [np.zeros(0, np.int32), *(part.records for part in parts)]
        sizes = [np.zeros(0, np.int64), *(part.sizes for part in parts)]
        return cls.of_sizes(np.concatenate(records), np.concatenate(sizes))

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def __getitem__(self, row: int) -> list[int]:
        return self.records[self.bounds[row] : self.bounds[row + 1]].tolist()

    def __iter__(self) -> Iterator[list[int]]:
        return (self[row] for row in range(len(self)))

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """Return the number of records in each row."""
        return np.diff(self.bounds)

    def sums(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Sum a value of each record by row; the caller guarantees that no row is empty."""
        return np.add.reduceat(values[self.records], self.bounds[:-1])

    def arranged(self, order: Sequence[int] | npt.NDArray[np.integer[Any]]) -> Rows:
        """Return the same rows in another order."""
        sizes = self.sizes[order]
        arranged = Rows.of_sizes(self.records, sizes)
        moved = np.repeat(self.bounds[:-1][order] - arranged.bounds[:-1], sizes)
        moved += np.arange(len(moved))
        return Rows(self.records[moved], arranged.bounds)

    def padded(self, num_rows: int) -> Rows:
        """Return the same rows followed by empty ones, so that there are ``num_rows``."""
        return Rows(self.records, np.pad(self.bounds, (0, num_rows - len(self)), mode="edge"))


def draw_order(number: int, *, seed: int, epoch: int) -> Indices:
    """Shuffle the numbers below ``number``; the same for the same seed and epoch, in every process."""
    return np.random.default_rng([seed, epoch]).permutation(np.arange(number, dtype=np.int32))
