"""Measures very many records in several processes: each counts the tokens of its share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from minicpmv.data.machine_copies import from_first, join
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


_Problems = dict[int, tuple[Problem, ...]]


class Share(NamedTuple):
    """Neighbouring records, measured."""

    start: int
    fits: NDArray[np.void]
    """Of type ``FIT``; zeros for those that do not fit."""
    problems: _Problems
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
        sharing: Processes of which each measures a part; all yield all of it as one share, once that is done, which
            may only be read. The first one has the cache.
    """
    found = None if kept is None else from_first(kept.load, sharing)
    if kept is not None and found is not None and found["fits"].dtype == FIT and len(found["fits"]) == total:
        kept.was_found = True
        unfit = np.flatnonzero(found["fits"]["length"] == 0)
        mine = part_of(len(unfit), sharing)
        problems = sharing.agree(lambda: _say_again(unfit[mine.start : mine.stop], fit))
        yield Share(0, found["fits"], _merged(sharing.gather(problems)))
        return
    measured = _measure(fit, part_of(total, sharing))
    if sharing.number > 1:
        mine = sharing.agree(lambda: list(measured))
        fits = np.concatenate([np.zeros(0, FIT), *(share.fits for share in mine)])
        problems = sharing.gather(_merged([share.problems for share in mine]))
        measured = iter([Share(0, join([fits], sharing)[0], _merged(problems))])
    parts: list[NDArray[np.void]] = []
    for share in measured:
        if kept is not None:
            parts.append(share.fits)
        yield share
    if kept is not None and parts and sharing.rank == 0:
        kept.store(fits=parts[0] if len(parts) == 1 else np.concatenate(parts))


def _measure(fit: Callable[[int], Fit], which: range) -> Iterator[Share]:
    processors = num_cores() // num_launched("LOCAL_WORLD_SIZE")  # all processes of the machine do so
    workers = min(processors, 16) if len(which) >= _WORTH_PROCESSES and processors > 1 else 0
    with naming_dead_workers("free memory (each of these processes counts tokens), then start again"):
        yield from DataLoader(_Shares(fit, which), batch_size=None, num_workers=workers, collate_fn=_as_it_is)


def _fill(share: Share, fit: Callable[[int], Fit]) -> Share:
    """Measure the records of a share."""
    for number in range(len(share.fits)):
        try:
            share.fits[number] = fit(share.start + number)
        except DataError as error:
            share.problems[share.start + number] = error.problems
    return share


def _say_again(positions: NDArray[np.intp], fit: Callable[[int], Fit]) -> _Problems:
    """Return what is wrong with records that are known not to fit."""
    found: _Problems = {}
    for position in positions.tolist():
        try:
            fit(position)
        except DataError as error:
            found[position] = error.problems
    return found


def _merged(parts: Sequence[_Problems]) -> _Problems:
    return {position: problems for part in parts for position, problems in part.items()}


def _as_it_is(share: Any) -> Any:
    return share
