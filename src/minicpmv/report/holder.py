"""Tells by the lock in a run's directory whether the run goes on.

Its first process holds the lock until it ends, and the kernel releases it then, however that was. A run removes its
lock when it ends by itself, with an error as well. On another machine the file alone is seen: a shared disk may not
share locks.
"""

from __future__ import annotations

import errno
import json
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

from minicpmv.errors import UsageError
from minicpmv.files.atomic_files import open_in_place
from minicpmv.files.posix import fcntl, read_at

__all__ = ["HELD_HERE", "LOCK", "Holder", "Life", "find_life", "read_holder", "try_lock"]

LOCK = ".lock"
"""File that exists while a run does. Hidden, so that nothing takes it for a part of a model."""

HELD_HERE: set[str] = set()
"""Real paths of the directories that this process holds: closing a second descriptor of a lock's file would drop it."""

Life = Literal["held", "killed", "left", "unknown"]
"""A run goes on; it was killed; it has ended by itself, or never began; or one cannot know."""

_REFUSED = (errno.EACCES, errno.EAGAIN)


class Holder(NamedTuple):
    """The process that holds a directory."""

    host: str
    process: int
    started: str
    """ISO time, UTC."""

    def __str__(self) -> str:
        return f"a run that began at {self.started} (process {self.process} on {self.host})"


def find_life(directory: str | Path) -> Life:
    """Find whether a run holds a directory, without changing anything."""
    if os.path.realpath(directory) in HELD_HERE:
        return "held"
    try:
        descriptor = open_in_place(Path(directory) / LOCK, os.O_RDONLY, is_own=False)
    except FileNotFoundError:
        return "left"
    except (OSError, UsageError):
        return "unknown"
    try:
        is_free = try_lock(descriptor, fcntl.LOCK_SH)  # until it is closed, in an instant
        holder = read_holder(descriptor)
    finally:
        with suppress(OSError):
            os.close(descriptor)
    if is_free is False:
        return "held"
    return "killed" if is_free and holder is not None and holder.host == socket.gethostname() else "unknown"


def try_lock(descriptor: int, kind: int) -> bool | None:
    """Lock a file for this process alone, not for its forks; return None where the file system has no locks."""
    try:
        fcntl.lockf(descriptor, kind | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in _REFUSED else None
    return True


def read_holder(descriptor: int) -> Holder | None:
    """Read who holds a lock's file, or held it last; None if it does not say, such as in its first instant."""
    try:
        content = json.loads(read_at(descriptor, 4096, 0))
        return Holder(str(content["host"]), int(content["process"]), str(content["started"]))
    except (ValueError, TypeError, KeyError):  # not written yet, or a disk was full
        return None
