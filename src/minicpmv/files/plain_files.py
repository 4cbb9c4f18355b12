"""Reads whole files that others wrote: only plain ones, only up to a size, and never waiting for a writer.

A FIFO or a device under a model's file name would block the reader for ever, or never end. Links are followed: hubs'
caches consist of them. Nothing here knows what the files mean.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from minicpmv.files.posix import O_BINARY, O_CLOEXEC, O_NONBLOCK

__all__ = ["UnusableFileError", "open_plain", "read_plain"]


class UnusableFileError(OSError):
    """Says that a file is not plain, or too large. ``str()`` says which, without the file's name."""


def read_plain(file: Path, *, most_bytes: int | None = None) -> bytes:
    """Read a file.

    Args:
        file: The file.
        most_bytes: A larger one is not read.

    Raises:
        FileNotFoundError: The file, or the target of the link, does not exist.
        UnusableFileError: It is a folder, FIFO, socket or device, or too large.
        OSError: The system cannot read it.
    """
    with open_plain(file) as opened:
        size = os.fstat(opened.fileno()).st_size
        if most_bytes is not None and size > most_bytes:
            raise UnusableFileError(f"{size:,} bytes, where {most_bytes:,} are the most")
        return opened.read()


def open_plain(file: str | os.PathLike[str]) -> BinaryIO:
    """Open a file for reading, as ``read_plain`` does.

    Raises:
        FileNotFoundError: The file, or the target of the link, does not exist.
        UnusableFileError: It is a folder, FIFO, socket or device.
        OSError: The system cannot read it.
    """
    try:
        # Opening a FIFO without a writer, or a serial line, would block otherwise.
        descriptor = os.open(file, os.O_RDONLY | O_BINARY | O_NONBLOCK | O_CLOEXEC)
    except ValueError as error:  # a NUL in the name
        raise UnusableFileError(str(error)) from error
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return open(descriptor, "rb")  # closes it
    os.close(descriptor)
    raise UnusableFileError("it is not a plain file")
