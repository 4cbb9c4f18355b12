"""Digests the content of data sources, for ``run.json``, for resuming and for caches."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from minicpmv.data.machine_copies import keep
from minicpmv.data.records.file_state import FileState
from minicpmv.data.records.folders import find_files
from minicpmv.data.records.reading import log_notice, open_records
from minicpmv.data.records.record import RawRecord
from minicpmv.data.records.sequences import LazySequence
from minicpmv.data.sharing import ALONE, Sharing
from minicpmv.errors import DataError, Problem

__all__ = ["Content", "open_source"]

_SAMPLES = 16
_SAMPLE_BYTES = 2**16


class Content(NamedTuple):
    """Identifies the content of all files of a source."""

    sha256: str
    """Of the files one after the other."""
    files: tuple[tuple[str, int], ...]
    """Name and bytes of each: where one ends and the next begins, and what its name says of its form."""


def open_source(path: str, *, sharing: Sharing = ALONE) -> tuple[Sequence[RawRecord], Content]:
    """Open the records of a source, and read what its files hold.

    Args:
        path: Of the source.
        sharing: Processes that all open it. The first one reads its whole content; the others compare samples, since on
            machines without a common disk they have copies.

    Raises:
        DataError: As ``open_records`` does, or a file has changed meanwhile, or is another on another machine.
        UsageError: As ``open_records`` does.
    """
    before = _look(path)
    on_notice: Callable[[Problem], None] = log_notice if sharing.rank == 0 else lambda notice: None
    raw = sharing.agree(lambda: open_records(path, on_notice=on_notice))
    content = sharing.first(lambda: _read(path))
    sharing.agree(lambda: _refuse_change(path, before))
    if sharing.number > 1:
        _refuse_other_copies(path, sharing)
        if isinstance(raw, LazySequence):
            raw.replace_arrays(partial(keep, sharing=sharing))
    return raw, content


def _refuse_change(path: str, before: dict[str, FileState] | None) -> None:
    if _look(path) != before:  # the records may be those of before, and the digest that of after
        found, fix = "files that have changed while they were read", "leave data files alone during a run; start again"
        raise DataError([Problem("D204", path, found, "files as they were", fix)])


def _refuse_other_copies(path: str, sharing: Sharing) -> None:
    samples = sharing.gather(_sample(path))
    sharing.agree(lambda: _refuse_other_copy(path, samples[sharing.rank] == samples[0]))


def _refuse_other_copy(path: str, is_same: bool) -> None:
    if not is_same:
        found, expected = "another content than on the first machine", "the same files on all machines"
        fix = "copy them from the first machine, or put them on a disk that all machines see"
        raise DataError([Problem("D204", path, found, expected, fix)])


def _sample(path: str) -> list[tuple[str, int, bytes]]:
    """Return name, size, and a digest of a few places of each file."""
    sampled: list[tuple[str, int, bytes]] = []
    for name in _list(path):
        digest, size = hashlib.sha256(), os.stat(name).st_size
        with open(name, "rb") as file:
            for number in range(_SAMPLES):
                file.seek(max(0, size - _SAMPLE_BYTES) * number // (_SAMPLES - 1))
                digest.update(file.read(_SAMPLE_BYTES))
        sampled.append((os.path.basename(name), size, digest.digest()))
    return sampled


def _list(path: str) -> list[str]:
    """List the files of a source, with all those inside a dataset directory."""
    files: list[str] = []
    for found in find_files(path):
        is_folder = os.path.isdir(found)
        files += sorted(str(entry) for entry in Path(found).iterdir() if entry.is_file()) if is_folder else [found]
    return files


def _look(path: str) -> dict[str, FileState] | None:
    try:
        return {name: FileState.of(name) for name in _list(path)}
    except OSError:  # opening it says what is wrong
        return None


def _read(path: str) -> Content:
    digest, files = hashlib.sha256(), list[tuple[str, int]]()
    for name in _list(path):
        size = 0
        with open(name, "rb") as file:
            while chunk := file.read(2**20):
                digest.update(chunk)
                size += len(chunk)
        files.append((os.path.basename(name), size))
    return Content(digest.hexdigest(), tuple(files))
