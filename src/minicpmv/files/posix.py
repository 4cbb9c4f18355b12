"""Offers what Windows lacks, so that every module can be imported there: locks, limits, signals and flags of files.

Where the system has them they are its own. Elsewhere a lock is refused as on a disk without locks, which callers expect
of network file systems; a flag is 0; and a limit is an error that names the system that has it. Nothing has been run on
Windows: WSL 2 is the way there (docs/windows.md).
"""

from __future__ import annotations

import errno
import os
import signal
import threading
from typing import Any, NoReturn

from minicpmv.errors import MachineError

__all__ = [
    "HAS_LIMITS",
    "O_BINARY",
    "O_CLOEXEC",
    "O_DIRECTORY",
    "O_NOFOLLOW",
    "O_NONBLOCK",
    "fcntl",
    "read_at",
    "refuse_windows",
    "resource",
    "signals",
    "user_id",
]


def refuse_windows(asked_by: str) -> NoReturn:
    """Say that something needs a POSIX system.

    Raises:
        MachineError: Always.
    """
    raise MachineError(
        f"{asked_by}: found a system without it (os.name {os.name!r}), expected Linux or another POSIX system\n"
        "  fix: on Windows, use WSL 2, which is a Linux (docs/windows.md)"
    )


class _NoLocks:
    """Stands in for ``fcntl``."""

    LOCK_SH, LOCK_EX, LOCK_NB = 1, 2, 4

    def flock(self, descriptor: Any, kind: int) -> NoReturn:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    lockf = flock


class _NoLimits:
    """Stands in for ``resource``."""

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        refuse_windows("limits of a process")


try:
    import fcntl as _fcntl

    fcntl: Any = _fcntl
except ImportError:
    fcntl = _NoLocks()

try:
    import resource as _resource

    resource: Any = _resource
except ImportError:
    resource = _NoLimits()
HAS_LIMITS = not isinstance(resource, _NoLimits)
"""Whether a process can be given limits of time and memory."""

O_CLOEXEC: int = getattr(os, "O_CLOEXEC", 0)
O_DIRECTORY: int = getattr(os, "O_DIRECTORY", 0)
O_NOFOLLOW: int = getattr(os, "O_NOFOLLOW", 0)
O_NONBLOCK: int = getattr(os, "O_NONBLOCK", 0)
O_BINARY: int = getattr(os, "O_BINARY", 0)  # only Windows has it, and would change the ends of lines without it

_one_at_a_time = threading.Lock()


def read_at(descriptor: int, size: int, position: int) -> bytes:
    """Read as ``os.pread`` does, which leaves the file's own position alone where the system can."""
    if hasattr(os, "pread"):
        return os.pread(descriptor, size, position)
    with _one_at_a_time:
        os.lseek(descriptor, position, os.SEEK_SET)
        return os.read(descriptor, size)


def signals(*names: str) -> tuple[signal.Signals, ...]:
    """Return those signals of these names that the system has."""
    return tuple(getattr(signal, name) for name in names if hasattr(signal, name))


def user_id() -> int:
    """Return this user's number, which is 0 for every file of Windows."""
    return os.geteuid() if hasattr(os, "geteuid") else 0
