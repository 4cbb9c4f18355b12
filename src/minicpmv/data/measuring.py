"""Measures very many records in several processes: each counts the tokens of its share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from minicpmv.data.fitting import Fit
from minicpmv.errors import DataError, Problem

__all__ = ["FIT", "Share", "measure"]

FIT = np.dtype([(name, np.int32) for name in Fit._fields])
"""A ``Fit`` in an array."""

_SHARE = 1000
"""Records."""
_WORTH_PROCESSES = 20_000
"""Records. Fewer are measured before processes have started."""


class Share(NamedTuple):
    """Neighbouring records, measured."""

    start: int
    fits: NDArray[np.void]
    """Of type ``FIT``; zeros for those that do not fit."""
    problems: dict[int, tuple[Problem, ...]]
    """Of those, by position."""


class _Shares(Dataset[Share]):
    def __init__(self, fit: Callable[[int], Fit], total: int) -> None:
        self._fit = fit
        self._total = total

    def __len__(self) -> int:
        return -(-self._total // _SHARE)

    def __getitem__(self, number: int) -> Share:
        start, end = number * _SHARE, min((number + 1) * _SHARE, self._total)
        share = Share(start, np.zeros(end - start, FIT), {})
        for index in range(start, end):
            try:
                share.fits[index - start] = self._fit(index)
            except DataError as error:
                share.problems[index] = error.problems
        return share


def measure(fit: Callable[[int], Fit], total: int) -> Iterator[Share]:
    """Measure records 0 to ``total - 1``, and yield the results in order.

    Args:
        fit: Measures one, or raises a ``DataError``; it is called in other processes if there are many.
        total: Number of records.
    """
    # The processes of a run on one machine do this at the same time.
    processors = len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    workers = min(processors, 16) if total >= _WORTH_PROCESSES and processors > 1 else 0
    yield from DataLoader(_Shares(fit, total), batch_size=None, num_workers=workers, collate_fn=_as_it_is)


def _as_it_is(share: Any) -> Any:
    return share
