"""Splits work on data among the processes of a run. It knows no torch: the run hands in what connects them.

A process works on one part, neighbouring records, and all receive the joined result, which is that of one process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

__all__ = ["ALONE", "Sharing", "part_of"]

T = TypeVar("T")


class Sharing(Protocol):
    """The processes that share work, of which each calls the same methods in the same order.

    A ``MiniCPMVError`` that one of them meets is raised on all of them, the first one's if several do.
    """

    @property
    def rank(self) -> int:
        """Return the number of this process, from 0."""
        ...

    @property
    def number(self) -> int:
        """Return how many processes there are."""
        ...

    def agree(self, action: Callable[[], T]) -> T:
        """Run an action on each process, and return this one's result once all have succeeded."""
        ...

    def first(self, action: Callable[[], T]) -> T:
        """Run an action on the first process alone, and return its result on all."""
        ...

    def gather(self, value: T) -> list[T]:
        """Return the value of each process on all, in the order of their numbers."""
        ...

    def deal(self, values: Sequence[T]) -> list[T]:
        """Hand value n to process n; return what each process had for this one."""
        ...


class _Alone:
    """One process, which has everything to itself."""

    rank = 0
    number = 1

    def agree(self, action: Callable[[], T]) -> T:
        return action()

    def first(self, action: Callable[[], T]) -> T:
        return action()

    def gather(self, value: T) -> list[T]:
        return [value]

    def deal(self, values: Sequence[T]) -> list[T]:
        return list(values)


ALONE: Sharing = _Alone()


def part_of(total: int, sharing: Sharing) -> range:
    """Return which of so many neighbours this process works on: as many as any other, or one more or less.

    >>> part_of(10, ALONE)
    range(0, 10)
    """
    start, end = (total * rank // sharing.number for rank in (sharing.rank, sharing.rank + 1))
    return range(start, end)
