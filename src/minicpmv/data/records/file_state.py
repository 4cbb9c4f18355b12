"""Detects changed files: data files, from which records are read during a whole run, and images."""

from __future__ import annotations

import hashlib
import os
from array import array
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from minicpmv.data.machine_copies import join
from minicpmv.data.sharing import Sharing, part_of
from minicpmv.errors import DataError, Problem

__all__ = ["FileState", "FileStates", "are_unchanged", "check_unchanged", "digest_name"]

_TOGETHER = 2000
"""Number of files that a thread checks in one go."""


class FileState(NamedTuple):
    """Identifies the content of a file without reading it."""

    size: int
    modified_ns: int

    @classmethod
    def of(cls, file: str | int) -> FileState:
        """Return the state of a file, by its path or an open descriptor."""
        status = os.stat(file)
        return cls(status.st_size, status.st_mtime_ns)


def check_unchanged(file: str | int, state: FileState, source: str) -> None:
    """Make sure that a file is unchanged.

    Args:
        file: Its path, or an open descriptor.
        state: Its earlier state.
        source: The file, as the user wrote it.

    Raises:
        DataError: The file has changed.
    """
    if FileState.of(file) != state:
        found, fix = "a file that has changed since it was opened", "leave data files alone during a run; start again"
        raise DataError([Problem("D204", source, found, "the file as it was", fix)])


class FileStates:
    """Holds the states of very many files, with path and 16 bytes for each."""

    def __init__(self) -> None:
        # Arrays to add to, or numpy's of what is whole.
        self._paths: bytearray | NDArray[np.uint8] = bytearray()
        self._numbers: array[int] | NDArray[np.int64] = array("q")

    def add(self, path: str) -> None:
        """Add the current state of a file, unless these are made from arrays.

        A file that cannot be accessed will count as changed.
        """
        assert isinstance(self._paths, bytearray), "those from arrays are whole"
        assert isinstance(self._numbers, array), "likewise"
        try:
            name = os.fsencode(os.path.join(os.getcwd(), path))
        except UnicodeEncodeError:  # not a valid file name
            return
        try:
            state = FileState.of(path)
        except (OSError, ValueError):
            state = FileState(-1, -1)
        self._paths += name + b"\0"
        self._numbers.extend(state)

    @classmethod
    def from_arrays(cls, paths: NDArray[np.uint8], numbers: NDArray[np.int64]) -> FileStates:
        """Hold the states that :meth:`as_arrays` returned as (bytes,) and (N, 2) numbers, without a copy of them."""
        states = cls()
        states._paths, states._numbers = paths, numbers
        return states

    def joined(self, sharing: Sharing) -> FileStates:
        """Return the states of all processes, of each file once: those of the first that has it."""
        paths, numbers = self.as_arrays()
        keys = np.frombuffer(b"".join(map(digest_name, paths.tobytes().split(b"\0")[:-1])), np.uint64)
        is_first = _find_first(keys, sharing)
        sizes = np.diff(np.flatnonzero(paths == 0), prepend=-1)
        return FileStates.from_arrays(*join([paths[np.repeat(is_first, sizes)], numbers[is_first]], sharing))

    def part(self, sharing: Sharing) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Return the arrays of the part that this process compares: of files whose names end in its part of the bytes.

        The caller guarantees that all have the same states.
        """
        paths, numbers = self.as_arrays()
        mine = part_of(len(paths), sharing)
        ends = np.flatnonzero(paths[mine.start : mine.stop] == 0) + mine.start + 1
        before = sharing.gather((len(ends), int(ends[-1]) if len(ends) else 0))[: sharing.rank]
        start, first = max((end for _, end in before), default=0), sum(number for number, _ in before)
        return paths[start : int(ends[-1]) if len(ends) else start], numbers[first : first + len(ends)]

    def as_arrays(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Return the arguments of :func:`are_unchanged`: the zero-terminated paths, and [N, 2] numbers."""
        paths, numbers = self._paths, self._numbers
        return (
            np.frombuffer(bytes(paths), np.uint8) if isinstance(paths, bytearray) else paths,
            np.array(numbers, np.int64).reshape(-1, 2) if isinstance(numbers, array) else numbers,
        )


def _find_first(keys: NDArray[np.uint64], sharing: Sharing) -> NDArray[np.bool_]:
    """Return for each key of this process whether no earlier one has it too; each process compares some keys of all."""
    whose = keys % sharing.number
    compared = sharing.deal([keys[whose == rank] for rank in range(sharing.number)])
    found = np.zeros(sum(map(len, compared)), np.bool_)
    found[np.unique(np.concatenate(compared), return_index=True)[1]] = True
    told = sharing.deal(np.split(found, np.cumsum([len(each) for each in compared])[:-1]))
    is_first = np.zeros(len(keys), np.bool_)
    for rank, each in enumerate(told):
        is_first[whose == rank] = each
    return is_first


def digest_name(name: bytes) -> bytes:
    """Return 8 bytes that stand for a file's name."""
    return hashlib.blake2b(name, digest_size=8).digest()


def are_unchanged(paths: NDArray[np.uint8], states: NDArray[np.int64]) -> bool:
    """Return whether every file still has its earlier size and modification time.

    Args:
        paths: (bytes,), each path with a zero byte behind it.
        states: (N, 2), size and time of change of each.
    """
    names = paths.tobytes().split(b"\0")[:-1]

    def check(start: int) -> bool:
        end = start + _TOGETHER
        return all(_is(name, *state) for name, state in zip(names[start:end], states[start:end].tolist(), strict=True))

    with ThreadPoolExecutor(max_workers=8) as pool:  # on a network file system every call is a round trip
        return len(names) == len(states) and all(pool.map(check, range(0, len(names), _TOGETHER)))


def _is(path: bytes, size: int, modified_ns: int) -> bool:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return False
    return (status.st_size, status.st_mtime_ns) == (size, modified_ns)
