"""What every plan of batches returns: which records each row or batch has, in two arrays instead of a million lists."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Indices", "Rows", "draw_order"]

Indices = npt.NDArray[np.int32]
"""Numbers of records or rows; 4 bytes each, since no data set has two billion records."""


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Rows of record numbers. A row becomes a list when it is asked for."""

    records: Indices
    """[records] Those of each row, one row after the other."""
    bounds: npt.NDArray[np.int64]
    """[rows + 1] Where each row begins in ``records``, and where the last one ends."""

    @classmethod
    def of_sizes(cls, records: Indices, sizes: npt.NDArray[np.integer[Any]]) -> Rows:
        """Cut records into rows of so many each."""
        return cls(records, np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]))

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def __getitem__(self, row: int) -> list[int]:
        return self.records[self.bounds[row] : self.bounds[row + 1]].tolist()

    def __iter__(self) -> Iterator[list[int]]:
        return (self[row] for row in range(len(self)))

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """Records of each row."""
        return np.diff(self.bounds)

    def sums(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Add up a value of each record by row; the caller guarantees that no row is empty."""
        return np.add.reduceat(values[self.records], self.bounds[:-1])

    def arranged(self, order: Sequence[int] | npt.NDArray[np.integer[Any]]) -> Rows:
        """Return the same rows in another order."""
        sizes = self.sizes[order]
        arranged = Rows.of_sizes(self.records, sizes)
        moved = np.repeat(self.bounds[:-1][order] - arranged.bounds[:-1], sizes)
        moved += np.arange(len(moved))
        return Rows(self.records[moved], arranged.bounds)

    def padded(self, num_rows: int) -> Rows:
        """Return the same rows with empty ones behind them, so that there are as many as wanted."""
        return Rows(self.records, np.pad(self.bounds, (0, num_rows - len(self)), mode="edge"))


def draw_order(number: int, *, seed: int, epoch: int) -> Indices:
    """Shuffle the first so many numbers; the same for the same seed and epoch, in every process."""
    return np.random.default_rng([seed, epoch]).permutation(np.arange(number, dtype=np.int32))
