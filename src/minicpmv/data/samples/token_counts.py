"""Measures very many records in several processes: each counts the tokens of its share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from minicpmv.data.samples.length_policy import Fit
from minicpmv.data.samples.workers import naming_dead_workers
from minicpmv.data.sharing import ALONE, Sharing, part_of
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
    def __init__(self, fit: Callable[[int], Fit], which: range) -> None:
        self._fit = fit
        self._which = which

    def __len__(self) -> int:
        return -(-len(self._which) // _SHARE)

    def __getitem__(self, number: int) -> Share:
        which = self._which[number * _SHARE : (number + 1) * _SHARE]
        return _fill(Share(which.start, np.zeros(len(which), FIT), {}), self._fit)


def measure(
    fit: Callable[[int], Fit], total: int, *, kept: Entry | None = None, sharing: Sharing = ALONE
) -> Iterator[Share]:
    """Measure records 0 to ``total - 1``, and yield the results in order.

    Args:
        fit: Measures one, or raises a ``DataError``; it is called in other processes if there are many.
        total: Number of records.
        kept: Where the result of the very same records is recalled from, or kept.
        sharing: Processes of which each measures a part; all yield all of it, once that is done. The first one has the
            cache.
    """
    found = None if kept is None else sharing.first(kept.load)
    if kept is not None and found is not None and found["fits"].dtype == FIT and len(found["fits"]) == total:
        kept.was_found = True
        yield _fill(Share(0, found["fits"], {}), fit)  # those that do not fit say so once more
        return
    measured = _measure(fit, part_of(total, sharing))
    if sharing.number > 1:
        mine = sharing.agree(lambda: list(measured))
        measured = (share for part in sharing.gather(_joined(mine)) for share in part)
    fits: list[NDArray[np.void]] = []
    for share in measured:
        if kept is not None:
            fits.append(share.fits)
        yield share
    if kept is not None and fits and sharing.rank == 0:
        kept.store(fits=np.concatenate(fits))


def _measure(fit: Callable[[int], Fit], which: range) -> Iterator[Share]:
    processors = num_cores() // num_launched("LOCAL_WORLD_SIZE")  # all processes of the machine do so
    workers = min(processors, 16) if len(which) >= _WORTH_PROCESSES and processors > 1 else 0
    with naming_dead_workers("free memory (each of these processes counts tokens), then start again"):
        yield from DataLoader(_Shares(fit, which), batch_size=None, num_workers=workers, collate_fn=_as_it_is)


def _joined(shares: Sequence[Share]) -> list[Share]:
    """Make one share of neighbouring ones."""
    if not shares:
        return []
    problems = {position: each for share in shares for position, each in share.problems.items()}
    return [Share(shares[0].start, np.concatenate([share.fits for share in shares]), problems)]


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
