"""Holds a data file open for reading by position, unpacked if it is a gzip file.

The file is not mapped into memory: so pages that were read do not count as this process's memory, and a file that is
truncated meanwhile causes an error instead of killing the process.
"""

from __future__ import annotations

import os
from typing import BinaryIO

from minicpmv.data.records.file_state import FileState, check_unchanged
from minicpmv.data.records.formats.containers.gzip_files import GZIP, unpack
from minicpmv.files.posix import O_BINARY, read_at

__all__ = ["DataFile"]


class DataFile:
    """Holds an open data file. A copy in another process opens, and if needed unpacks, the file again.

    Args:
        source: The file, as the user wrote it.

    Raises:
        DataError: The gzip file cannot be unpacked.
        OSError: The file cannot be opened.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self._state = FileState.of(source)
        self._descriptor = os.open(source, os.O_RDONLY | O_BINARY)
        self.is_packed = self.read(len(GZIP), 0) == GZIP
        if self.is_packed:
            self._unpack()

    def _unpack(self) -> None:
        os.close(self._descriptor)
        del self._descriptor
        self._descriptor = unpack(self.source)

    @property
    def name(self) -> str:
        """Return the name of the content: the file's name without the ending of a gzip file."""
        return self.source[:-3] if self.is_packed and self.source.lower().endswith(".gz") else self.source

    def read(self, size: int, position: int) -> bytes:
        """Return ``size`` bytes from a position on, fewer at the end."""
        return read_at(self._descriptor, size, position)

    def stream(self, start: int = 0) -> BinaryIO:
        """Return a file object that reads from a position on; use only one at a time."""
        stream = os.fdopen(os.dup(self._descriptor), "rb")
        stream.seek(start)
        return stream

    def check_unchanged(self) -> None:
        """Make sure that the file is unchanged since it was opened.

        Raises:
            DataError: The file has changed.
        """
        if not self.is_packed:  # the unpacked copy belongs to this process
            check_unchanged(self._descriptor, self._state, self.source)

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if name != "_descriptor"}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state)
        self._descriptor = os.open(self.source, os.O_RDONLY | O_BINARY)
        if self.is_packed:
            check_unchanged(self._descriptor, self._state, self.source)
            self._unpack()
