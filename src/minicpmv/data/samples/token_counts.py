"""Measures very many records in several processes: each counts the tokens of its share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from minicpmv.data.samples.length_policy import Fit
from minicpmv.data.samples.workers import naming_dead_workers
from minicpmv.data.sources.cache import Entry
from minicpmv.errors import DataError, Problem
from minicpmv.machine.system import num_cores, num_launched

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
        return _fill(Share(start, np.zeros(end - start, FIT), {}), self._fit)


def measure(fit: Callable[[int], Fit], total: int, *, kept: Entry | None = None) -> Iterator[Share]:
    """Measure records 0 to ``total - 1``, and yield the results in order.

    Args:
        fit: Measures one, or raises a ``DataError``; it is called in other processes if there are many.
        total: Number of records.
        kept: Where the result of the very same records is recalled from, or kept. The caller ensures that no
            other process of the machine measures at the same time.
    """
    found = None if kept is None else kept.load()
    if kept is not None and found is not None and found["fits"].dtype == FIT and len(found["fits"]) == total:
        kept.was_found = True
        yield _fill(Share(0, found["fits"], {}), fit)  # those that do not fit say so once more
        return
    # Without it, the processes of a run on one machine do this at the same time.
    sharing = num_launched("LOCAL_WORLD_SIZE") if kept is None else 1
    processors = num_cores() // sharing
    workers = min(processors, 16) if total >= _WORTH_PROCESSES and processors > 1 else 0
    fits: list[NDArray[np.void]] = []
    with naming_dead_workers("free memory (each of these processes counts tokens), then start again"):
        for share in DataLoader(_Shares(fit, total), batch_size=None, num_workers=workers, collate_fn=_as_it_is):
            fits.append(share.fits)
            yield share
    if kept is not None and fits:
        kept.store(fits=np.concatenate(fits))


def _fill(share: Share, fit: Callable[[int], Fit]) -> Share:
    """Measure those of a share that are not measured yet."""
    for number in np.flatnonzero(share.fits["length"] == 0).tolist():
        try:
            share.fits[number] = fit(share.start + number)
        except DataError as error:
            share.problems[share.start + number] = error.problems
    return share


def _as_it_is(share: Any) -> Any:
    return share
