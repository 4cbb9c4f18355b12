"""Processes that share work on data, as threads: what one hands over is pickled, as between processes."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from minicpmv.data.sharing import Sharing
from minicpmv.errors import MiniCPMVError

T = TypeVar("T")


class _Rank:
    """One of them, see ``minicpmv.data.sharing.Sharing``."""

    def __init__(self, rank: int, number: int, board: dict[int, Any], barrier: threading.Barrier) -> None:
        self.rank = rank
        self.number = number
        self._board = board
        self._barrier = barrier

    def agree(self, action: Callable[[], T]) -> T:
        done: list[T] = []
        fault = None
        try:
            done.append(action())
        except MiniCPMVError as error:
            fault = error
        for found in self._exchange(fault):
            if found is not None:
                raise found
        return done[0]

    def first(self, action: Callable[[], T]) -> T:
        done = [] if self.rank else [action]
        return self.gather(self.agree(lambda: [each() for each in done]))[0][0]

    def gather(self, value: T) -> list[T]:
        return self._exchange(value)

    def deal(self, values: Sequence[T]) -> list[T]:
        assert len(values) == self.number
        return [dealt[self.rank] for dealt in self._exchange(list(values))]

    def _exchange(self, value: Any) -> list[Any]:
        self._board[self.rank] = pickle.dumps(value)
        self._barrier.wait()
        found = [pickle.loads(self._board[rank]) for rank in range(self.number)]  # noqa: S301  made above
        self._barrier.wait()
        return found


def on_ranks(number: int, work: Callable[[Sharing], T]) -> list[T]:
    """Do the same work on so many ranks, and return what each returns; what one raises is raised here."""
    barrier = threading.Barrier(number, timeout=60)
    board: dict[int, Any] = {}

    def run(rank: int) -> T:
        try:
            return work(_Rank(rank, number, board, barrier))
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(number) as pool:
        results = [pool.submit(run, rank) for rank in range(number)]
    faults = [result.exception() for result in results]
    for fault in faults:
        if fault is not None and not isinstance(fault, threading.BrokenBarrierError):
            raise fault
    return [result.result() for result in results]
