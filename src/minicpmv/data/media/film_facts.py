"""Reads the headers of the films that records name, and holds what they state in a few bytes for each.

A film that many records use is opened once, unless very many others come in between.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from minicpmv.data.machine_copies import join
from minicpmv.data.media.film_faults import FilmError
from minicpmv.data.media.films import inspect_film, read_frames
from minicpmv.data.media.image_faults import others_of
from minicpmv.data.records.file_state import FileStates
from minicpmv.data.records.record import Film
from minicpmv.data.records.sequences import LazySequence
from minicpmv.data.sharing import Sharing
from minicpmv.errors import Problem, UsageError
from minicpmv.processing.films.facts import FilmFacts
from minicpmv.processing.films.request import RequestFault, find_request_fault, find_request_oddity
from minicpmv.wording import counted

__all__ = ["FilmFactsList", "FilmReader", "FilmUse", "files_of", "find_decoding_fault", "word_film_fault"]

_REMEMBERED = 100_000
"""Most films that are remembered, about 50 MB."""
_WORTH_THREADS = 4
"""Films."""
_CODES = {"missing": "D145", "not local": "D132", "ends early": "D147"}
"""Codes of faults; of all others D146."""
_NUMBERS = 6
"""Numbers that are held of each film, besides the times of its frames."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FilmUse:
    """Names one film in one record."""

    record: int
    """Position of the record in its file."""
    where: str
    """Place as in messages."""
    film: Film
    """With paths to open."""


class FilmFactsList(LazySequence["tuple[FilmFacts, ...]"]):
    """Holds the facts of each record's films, in the order of adding."""

    def __init__(self) -> None:
        # Arrays to add to, or numpy's of what is whole.
        self._ends: Any = array("q")  # end of each record's films, counted in films
        self._numbers: Any = array("d")  # duration, rate, frames or -1, width, height, 1 for frames that were chosen
        self._time_ends: Any = array("q")  # end of each film's frame times, counted in times; -1 before it: it has none
        self._times: Any = array("d")

    def __len__(self) -> int:
        return len(self._ends)

    def append(self, facts: Sequence[FilmFacts]) -> None:
        """Add the facts of the next record's films, unless these are made from arrays."""
        for each in facts:
            frames = -1 if each.num_frames is None else each.num_frames
            self._numbers.extend([each.duration, each.rate, frames, *each.size, each.is_chosen])
            self._times.extend(each.frame_times or ())
            self._time_ends.append(len(self._times))
        self._ends.append(len(self._time_ends))

    def as_arrays(self) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
        """Return what :meth:`from_arrays` takes.

        Returns:
            Where each record's films end, (N,); the numbers of each film, (6 * M,); where each film's frame times end,
            (M,); and all times.
        """
        held = (self._ends, self._numbers, self._time_ends, self._times)
        ends, numbers, time_ends, times = (np.array(each) if isinstance(each, array) else each for each in held)
        return ends, numbers, time_ends, times

    @classmethod
    def from_arrays(
        cls,
        ends: NDArray[np.int64],
        numbers: NDArray[np.float64],
        time_ends: NDArray[np.int64],
        times: NDArray[np.float64],
    ) -> FilmFactsList:
        """Hold the facts that :meth:`as_arrays` returned as (N,), (6 * M,), (M,) and (T,) numbers, without a copy."""
        facts = cls()
        facts._ends, facts._numbers, facts._time_ends, facts._times = ends, numbers, time_ends, times
        return facts

    def joined(self, sharing: Sharing) -> FilmFactsList:
        """Put the facts of all processes, of neighbouring parts, one after the other."""
        ends, numbers, time_ends, times = self.as_arrays()
        before = sharing.gather((len(time_ends), len(times)))[: sharing.rank]
        films, all_times = (sum(each) for each in zip((0, 0), *before, strict=True))
        return FilmFactsList.from_arrays(*join([ends + films, numbers, time_ends + all_times, times], sharing))

    def _item(self, index: int) -> tuple[FilmFacts, ...]:
        return tuple(self._facts(film) for film in range(self._ends[index - 1] if index else 0, self._ends[index]))

    def _facts(self, film: int) -> FilmFacts:
        duration, rate, frames, width, height, is_chosen = self._numbers[
            film * _NUMBERS : (film + 1) * _NUMBERS
        ].tolist()
        times = self._times[self._time_ends[film - 1] if film else 0 : self._time_ends[film]].tolist()
        return FilmFacts(
            duration=duration,
            rate=rate,
            num_frames=None if frames < 0 else int(frames),
            size=(int(width), int(height)),
            frame_times=tuple(times) or None,
            is_chosen=bool(is_chosen),
        )


@dataclass(slots=True)
class _Fault:
    use: FilmUse
    """The first."""
    error: FilmError
    uses: int


@dataclass(slots=True)
class _Oddity:
    use: FilmUse
    """The first."""
    found: RequestFault
    uses: int


class FilmFindings(NamedTuple):
    """Holds what a reader has found besides facts, in the order of finding."""

    faults: dict[Film, _Fault]
    unfitting: list[tuple[int, Problem]]
    odd: dict[str, _Oddity]


class FilmReader:
    """Opens films, and remembers their faults.

    Args:
        states: Receives the state of each file before it is opened.
    """

    def __init__(self, states: FileStates | None = None) -> None:
        self._states = states
        self._known: dict[Film, FilmFacts] = {}
        self._faults: dict[Film, _Fault] = {}
        self._unfitting: list[tuple[int, Problem]] = []
        self._odd: dict[str, _Oddity] = {}

    def read(self, uses: Sequence[FilmUse]) -> list[FilmFacts | None]:
        """Return the facts of each film; None if it cannot be used as the record asks.

        Raises:
            UsageError: What decodes films is not installed.
        """
        if len(self._known) > _REMEMBERED:
            self._known.clear()
        new: dict[Film, FilmUse] = {}
        for use in uses:
            if use.film not in self._known and use.film not in self._faults:
                new.setdefault(use.film, use)
        if self._states is not None:
            for film in new:
                for path in files_of(film):
                    self._states.add(path)
        for use, outcome in zip(new.values(), _inspect(list(new)), strict=True):
            if isinstance(outcome, FilmError):
                self._faults[use.film] = _Fault(use, outcome, 0)
            else:
                self._known[use.film] = outcome
        return [self._judge(use) for use in uses]

    def _judge(self, use: FilmUse) -> FilmFacts | None:
        if use.film in self._faults:
            self._faults[use.film].uses += 1
            return None
        facts = self._known[use.film]
        fault = find_request_fault(use.film.request, facts)
        if fault is None:
            if odd := find_request_oddity(use.film.request, facts):
                self._odd.setdefault(odd.field, _Oddity(use, odd, 0)).uses += 1
            return facts
        where = f"{use.where}.{fault.field}"
        self._unfitting.append((use.record, Problem("D144", where, fault.found, fault.expected, fault.fix)))
        return None

    @property
    def findings(self) -> FilmFindings:
        """Return what :meth:`add_findings` takes; it can be pickled."""
        return FilmFindings(self._faults, self._unfitting, self._odd)

    def add_findings(self, found: FilmFindings) -> None:
        """Add what another reader has found in later records."""
        for film, fault in found.faults.items():
            if self._faults.setdefault(film, fault) is not fault:
                self._faults[film].uses += fault.uses
        self._unfitting += found.unfitting
        for field, odd in found.odd.items():
            if self._odd.setdefault(field, odd) is not odd:
                self._odd[field].uses += odd.uses

    def problems(self) -> list[tuple[int, Problem]]:
        """Word one problem for each film that cannot be read, and each request that does not fit its film."""
        faults = [
            (fault.use.record, word_film_fault(fault.use.where, fault.error, num_others=fault.uses - 1))
            for fault in self._faults.values()
        ]
        return [*faults, *self._unfitting]

    def notices(self) -> Iterator[tuple[int, Problem]]:
        """Yield a notice for each kind of request that asks for more than its film has."""
        for field, odd in self._odd.items():
            found = odd.found.found + (f" (and {counted(odd.uses - 1, 'more film')})" if odd.uses > 1 else "")
            where = f"{odd.use.where}.{field}"
            yield odd.use.record, Problem("D309", where, found, odd.found.expected, odd.found.fix, "notice")


def word_film_fault(where: str, error: FilmError, *, num_others: int = 0) -> Problem:
    """Word the fault of a film that a record names.

    Args:
        where: Place in the record.
        error: What is wrong with it.
        num_others: How many further uses the film has.
    """
    joint = ": " if error.kind == "missing" else " in "
    found = f"{error.found}{joint}{error.where!r}{others_of(num_others)}"
    return Problem(_CODES.get(error.kind, "D146"), where, found, error.expected, error.fix)


def files_of(film: Film) -> list[str]:
    """Return the files that a film is made of: one, or its pictures; of a folder all files in it."""
    if not isinstance(film.source, str):
        return list(film.source)
    if not os.path.isdir(film.source):
        return [film.source]
    return sorted(entry.path for entry in os.scandir(film.source) if entry.is_file())


def _inspect(films: Sequence[Film]) -> Iterator[FilmFacts | FilmError]:
    if len(films) < _WORTH_THREADS:
        yield from map(_look, films)
        return
    pool = ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1))
    try:
        yield from pool.map(_look, films)
    finally:
        pool.shutdown(cancel_futures=True)  # at Ctrl-C, only running reads are awaited


def _look(film: Film) -> FilmFacts | FilmError:
    try:
        return inspect_film(film)
    except FilmError as error:
        if error.kind == "not installed":
            raise UsageError(
                f"{error.where}: found {error.found}, expected {error.expected}\n  fix: {error.fix}"
            ) from error
        return error


def find_decoding_fault(film: Film, facts: FilmFacts) -> FilmError | None:
    """Decode a film to its end, or that of the clip that is asked for; return what is wrong with it, if anything."""
    end = facts.duration if film.request.end is None else min(film.request.end, facts.duration)
    try:
        decode: Any = read_frames  # what is kept may be anything
        decode(film, [film.request.start or 0.0, end], convert=lambda frame: None)
    except FilmError as error:
        return error
    return None
