"""Builds lazy sequences from others without a copy: several concatenated, or selected items of one."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, chain
from typing import Any, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

__all__ = ["Concatenated", "LazySequence", "Selected"]

T = TypeVar("T")


class LazySequence(Sequence[T]):
    """Makes its items on access. Slices are lists; subclasses define ``__len__`` and ``_item``."""

    def _item(self, index: int) -> T:
        """Make one item; the index is in range and not negative."""
        raise NotImplementedError

    def replace_arrays(self, keep: Callable[[NDArray[Any]], NDArray[Any]]) -> None:
        """Hold what ``keep`` returns for each large array instead of it; by default there is none."""

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        if isinstance(index, slice):
            return [self._item(i) for i in range(*index.indices(len(self)))]
        size = len(self)
        if not -size <= index < size:
            raise IndexError(f"index {index} of a sequence of {size}")
        return self._item(index % size)


class Concatenated(LazySequence[T]):
    """Concatenates sequences."""

    def __init__(self, parts: Sequence[Sequence[T]]) -> None:
        self._parts = [part for part in parts if len(part)]
        self._ends = list(accumulate(len(part) for part in self._parts))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __iter__(self) -> Iterator[T]:
        return chain.from_iterable(self._parts)

    def replace_arrays(self, keep: Callable[[NDArray[Any]], NDArray[Any]]) -> None:
        for part in self._parts:
            if isinstance(part, LazySequence):
                part.replace_arrays(keep)

    def _item(self, index: int) -> T:
        number = bisect_right(self._ends, index)
        return self._parts[number][index - (self._ends[number - 1] if number else 0)]


class Selected(LazySequence[T]):
    """Selects items of another sequence by position.

    Args:
        items: The sequence.
        positions: (N,), which of them, in order; any may come more than once.
    """

    def __init__(self, items: Sequence[T], positions: NDArray[np.integer]) -> None:
        self._items = items
        self._positions = positions

    def __len__(self) -> int:
        return len(self._positions)

    def _item(self, index: int) -> T:
        return self._items[int(self._positions[index])]
