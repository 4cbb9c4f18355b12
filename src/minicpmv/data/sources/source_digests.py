"""Digests the content of data sources, for ``run.json``, for resuming and for caches."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from minicpmv.data.records.file_state import FileState
from minicpmv.data.records.folders import find_files
from minicpmv.data.records.reading import open_records
from minicpmv.data.records.record import RawRecord
from minicpmv.errors import DataError, Problem

__all__ = ["Content", "open_source"]


class Content(NamedTuple):
    """Identifies the content of all files of a source."""

    sha256: str
    """Of the files one after the other."""
    files: tuple[tuple[str, int], ...]
    """Name and bytes of each: where one ends and the next begins, and what its name says of its form."""


def open_source(path: str) -> tuple[Sequence[RawRecord], Content]:
    """Open the records of a source, and read what its files hold.

    Raises:
        DataError: As ``open_records`` does, or a file has changed meanwhile.
        UsageError: As ``open_records`` does.
    """
    before = _look(path)
    raw = open_records(path)
    content = _read(path)
    if _look(path) != before:  # the records may be those of before, and the digest that of after
        found, fix = "files that have changed while they were read", "leave data files alone during a run; start again"
        raise DataError([Problem("D204", path, found, "files as they were", fix)])
    return raw, content


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
