"""Remembers the content of the picture files that a run has trained on: 40 bytes for each, however long their names.

Names and states come from the check before a run. A file's content is digested when it is read
anyway, by the data workers, into memory that they share with the process that writes checkpoints. Pictures are
identified by their position among all pictures of the data, so that data may have moved when a run is resumed. Embedded
pictures are part of their data file, which has a digest of its own.
"""

from __future__ import annotations

import ctypes
import hashlib
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from minicpmv.data.machine_copies import join, keep
from minicpmv.data.records.file_state import FileStates, digest_name
from minicpmv.data.sharing import ALONE, Sharing

__all__ = ["Change", "PictureDigests"]

_BYTES = 16
"""Of a digest."""
_DRAWN = 256
"""Number of files that are read although they look unchanged."""
_SIZE, _MODIFIED = 0, 1
"""Columns of the states."""


class Change(NamedTuple):
    """Describes a picture that has changed."""

    place: int
    path: str
    before: str
    now: str

    def __str__(self) -> str:
        return f"{self.path}: {self.before} then, {self.now} now"


class PictureDigests:
    """Holds states and digests of the pictures of some data.

    Args:
        files: File states of each source, in the order of the sources.
        sharing: Processes that all have the same states. They share what is only read; digests are each one's own.
    """

    def __init__(self, files: Sequence[FileStates], *, sharing: Sharing = ALONE) -> None:
        found = [each.as_arrays() for each in files]
        self._names = [names for names, _ in found]
        """The zero-terminated names of each source."""
        states = [states for _, states in found]
        self.states = (
            states[0] if len(states) == 1 else keep(np.concatenate([np.zeros((0, 2), np.int64), *states]), sharing)
        )
        """[N, 2] Bytes, and modification time in nanoseconds."""
        mine = [_keys(each.part(sharing)[0]) for each in files]
        keys = np.concatenate([np.zeros(0, np.uint64), *join(mine, sharing)])
        order = np.argsort(keys, kind="stable").astype(np.int32)
        self._keys, self._places = keep(keys[order], sharing), keep(order, sharing)
        self._shared = multiprocessing.RawArray(
            ctypes.c_uint8, _BYTES * len(keys)
        )  # shared with workers, however they are started

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def digests(self) -> NDArray[np.uint8]:
        """Return the digests, [N, 16], zero for unread pictures; every worker sees changes."""
        shared: Any = self._shared  # ctypes' arrays support the buffer protocol, which their type does not state
        return np.frombuffer(shared, np.uint8).reshape(-1, _BYTES)

    def forget_names(self) -> None:
        """Drop the names, which only :meth:`compare` needs."""
        self._names = []

    def note(self, path: str, content: bytes) -> None:
        """Remember the content of a file.

        Args:
            path: Path as opened by the check before the run.
            content: The whole content.
        """
        place = self._place(path)
        if place is not None:
            self.digests[place] = np.frombuffer(_digest(content), np.uint8)

    def note_files(self, paths: Sequence[str]) -> None:
        """Remember the content of the files of a film, which are read here unless they were before.

        Raises:
            OSError: One cannot be read.
        """
        for path in paths:
            place = self._place(path)
            if place is not None and not self.digests[place].any():
                digest = hashlib.sha256()
                with Path(path).open("rb") as file:
                    while chunk := file.read(2**20):
                        digest.update(chunk)
                self.digests[place] = np.frombuffer(digest.digest()[:_BYTES], np.uint8)

    def _place(self, path: str) -> int | None:
        """Find a file among those of the data."""
        key = np.frombuffer(digest_name(os.fsencode(os.path.join(os.getcwd(), path))), np.uint64)[0]
        position = int(np.searchsorted(self._keys, key))
        is_there = position < len(self._keys) and self._keys[position] == key
        return int(self._places[position]) if is_there else None

    def as_arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays for a later :meth:`compare` and :meth:`recall`."""
        return {"states": self.states, "digests": self.digests}

    def recall(self, digests: NDArray[np.uint8], *, without: Sequence[Change] = ()) -> None:
        """Take over what an earlier part of the run has read, (N, 16), but for pictures that have changed since."""
        known = digests.copy()
        known[[change.place for change in without]] = 0
        self.digests[:] = known

    def compare(self, states: NDArray[np.int64], digests: NDArray[np.uint8]) -> list[Change]:
        """Find the pictures that have changed.

        All are compared by size. Those that were read, and whose modification time differs, are read again and compared
        by content, and so is a fixed random sample of 256 others.

        Args:
            states: [N, 2] Earlier states of the same data.
            digests: [N, 16] Earlier digests.
        """
        assert len(states) == len(self), "the same data have as many pictures"
        resized = states[:, _SIZE] != self.states[:, _SIZE]
        known = digests.any(axis=1) & ~resized
        touched = known & (states[:, _MODIFIED] != self.states[:, _MODIFIED])
        rest = np.flatnonzero(known & ~touched)
        drawn = np.random.default_rng(len(self)).choice(rest, min(_DRAWN, len(rest)), replace=False)
        read = np.concatenate([np.flatnonzero(touched), drawn])
        names = b"".join(each.tobytes() for each in self._names).split(b"\0")
        with ThreadPoolExecutor(max_workers=8) as pool:
            now = list(pool.map(lambda place: _digest_file(names[place]), read.tolist()))
        changes = [
            Change(
                place, os.fsdecode(names[place]), f"{states[place, _SIZE]:,} bytes", f"{self.states[place, _SIZE]:,}"
            )
            for place in np.flatnonzero(resized).tolist()
        ]
        for place, found in zip(read.tolist(), now, strict=True):
            before = digests[place].tobytes()
            if found != before:
                told = "not readable" if found is None else found.hex()[:12]
                changes.append(Change(place, os.fsdecode(names[place]), f"sha256 {before.hex()[:12]}", told))
        return sorted(changes)


def _keys(names: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Return what stands for each of some zero-terminated names."""
    return np.frombuffer(b"".join(map(digest_name, names.tobytes().split(b"\0")[:-1])), np.uint64)


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()[:_BYTES]


def _digest_file(name: bytes) -> bytes | None:
    try:
        return _digest(Path(os.fsdecode(name)).read_bytes())
    except OSError:
        return None
