"""Whether a data file is still the one that was opened: records are read from it all through a run."""

from __future__ import annotations

import os
from typing import NamedTuple

from minicpmv.errors import DataError, Problem

__all__ = ["FileState", "check_unchanged"]


class FileState(NamedTuple):
    """What tells one content of a file from another without reading it."""

    size: int
    modified_ns: int

    @classmethod
    def of(cls, file: str | int) -> FileState:
        """Look at a file, by its path or an open descriptor."""
        status = os.stat(file)
        return cls(status.st_size, status.st_mtime_ns)


def check_unchanged(file: str | int, state: FileState, source: str) -> None:
    """Make sure that a file has kept its state.

    Args:
        file: Its path, or an open descriptor.
        state: As it was.
        source: The file, as the user wrote it.

    Raises:
        DataError: It has changed.
    """
    if FileState.of(file) != state:
        found, fix = "a file that has changed since it was opened", "leave data files alone during a run; start again"
        raise DataError([Problem("D204", source, found, "the file as it was", fix)])
