"""Unpacks a gzip file into an unnamed temporary file, which is removed with its process.

Records are read by position, which gzip does not allow. The unpacked size is limited: a file of a few megabytes
can be crafted to hold terabytes.
"""

from __future__ import annotations

import gzip
import os
import tempfile
import zlib
from typing import NoReturn

from minicpmv.errors import DataError, Problem

__all__ = ["GZIP", "unpack"]

GZIP = b"\x1f\x8b"
"""First bytes of a gzip file."""

MAX_RATIO = 200
"""Largest expansion of a file beyond ``FREE_BYTES``. Records expand 3 to 30 times, a malicious file 1,000 times."""
FREE_BYTES = 100_000_000
"""Bytes that any file may unpack to."""
_BLOCK = 2**20


def unpack(source: str) -> int:
    """Return an open descriptor of a gzip file's content, for the caller to close.

    Raises:
        DataError: The file is damaged, unpacks to more than is allowed, or there is no room for it.
    """
    limit = max(FREE_BYTES, MAX_RATIO * os.path.getsize(source))
    size = 0
    try:
        with gzip.open(source, "rb") as packed, tempfile.TemporaryFile() as file:
            while block := packed.read(_BLOCK):
                size += len(block)
                if size > limit:
                    _refuse_size(source, limit)
                file.write(block)
            file.flush()
            return os.dup(file.fileno())
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        found = f"gzip data that cannot be unpacked ({str(error) or type(error).__name__})"
        problem = Problem("D172", source, found, "a complete gzip file", "copy or write the file again")
        raise DataError([problem]) from error
    except OSError as error:
        found = f"no room for what it holds in {tempfile.gettempdir()} ({error.strerror})"
        fix = "unpack it where there is room, or set TMPDIR to a folder there"
        raise DataError([Problem("D172", source, found, "room for the unpacked file", fix)]) from error


def _refuse_size(source: str, limit: int) -> NoReturn:
    found = f"gzip data that unpack to more than {limit:,} bytes"
    expected = f"at most {MAX_RATIO} times the size of the packed file, or {FREE_BYTES:,} bytes"
    fix = "if the file is what you think, unpack it yourself: gunzip --keep, and give the unpacked file"
    raise DataError([Problem("D172", source, found, expected, fix)])
