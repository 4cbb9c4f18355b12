"""Reserves a directory for one run: its first process locks it, and a second run is refused with the holder's name.

The kernel's lock decides. It ends with its process, however that ends, and a network file system forwards it to its
server. Where a file system has no locks, or only per machine, the file's modification time decides: the holder renews
it, and a run on another machine watches whether it changes, so no two clocks are compared.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path

from minicpmv.errors import UsageError
from minicpmv.files.atomic_files import open_in_place
from minicpmv.files.posix import O_CLOEXEC, O_NOFOLLOW, O_NONBLOCK, fcntl
from minicpmv.report.holder import HELD_HERE, LOCK, Holder, read_holder, try_lock
from minicpmv.training.distributed.console import notice

__all__ = ["hold_directory", "look_for_holder"]

_BEAT = 15.0
"""Seconds after which a run renews the file's modification time."""
_PATIENCE = 50.0
"""Seconds without a renewal after which a run on another machine counts as dead."""
_LOOK = 1.0
"""Seconds between two checks of it."""
_AGAIN = (0.1, 0.3, 0.6)
"""Seconds to wait before a lock is tried again: a dry run holds it for an instant, and a run that has just started has
not yet written who it is."""


@contextmanager
def hold_directory(output_dir: str) -> Iterator[None]:
    """Lock a directory, creating it if needed, and release it at the end.

    Raises:
        UsageError: Another run holds it, or it cannot be written.
    """
    folder = Path(output_dir)
    made = [path for path in (folder, *folder.absolute().parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _take(folder / LOCK)
    except OSError as error:
        raise UsageError(
            f"--output_dir: found that {str(folder / LOCK)!r} cannot be written ({error.strerror}), expected a "
            "writable directory\n  fix: choose another directory, or make this one writable (chmod u+w)"
        ) from error
    HELD_HERE.add(place := os.path.realpath(folder))
    over = threading.Event()
    beating = threading.Thread(target=_beat, args=(descriptor, over), daemon=True)
    beating.start()
    try:
        yield
    finally:
        over.set()
        beating.join()
        with suppress(OSError):
            os.unlink(folder / LOCK)  # before the lock goes: a process that waits for it then finds another file
        os.close(descriptor)
        HELD_HERE.discard(place)
        for path in made:  # a refused run leaves nothing behind
            with suppress(OSError):
                path.rmdir()


def look_for_holder(output_dir: str) -> None:
    """Verify that no run holds a directory, without changing anything.

    Raises:
        UsageError: A run holds it.
    """
    path, holder = Path(output_dir) / LOCK, None
    for pause in (*_AGAIN, 0):
        try:
            descriptor = open_in_place(path, os.O_RDONLY, is_own=False)
        except OSError:  # no run is there, or the fault will show when the run starts
            return
        try:
            if try_lock(descriptor, fcntl.LOCK_SH) is not False:
                return
            holder = read_holder(descriptor)
        finally:
            os.close(descriptor)
        time.sleep(pause)
    raise _taken(path, holder)


def _take(path: Path) -> int:
    """Lock the file, write this process's name into it, and return its descriptor."""
    pauses, was_watched = list(_AGAIN), False
    while True:
        descriptor, is_new = _open(path)
        is_locked = try_lock(descriptor, fcntl.LOCK_EX)
        holder = read_holder(descriptor)
        if is_locked is False:
            os.close(descriptor)
            if not pauses:
                raise _taken(path, holder)
            time.sleep(pauses.pop(0))
            continue
        if not _is_at(descriptor, path):  # another run has ended and removed it since
            os.close(descriptor)
            continue
        is_free = is_new or (bool(is_locked) and (holder is None or holder.host == socket.gethostname()))
        if not is_free and not was_watched:
            os.close(descriptor)  # closing any descriptor of the file drops this process's lock
            who = holder or "a run that has not written its name"
            notice(f"{path}: found {who}; this disk may not share locks, so it is watched for {_PATIENCE:.0f} s")
            if _is_alive(path):
                raise _taken(path, holder)
            was_watched = True
            continue
        if holder is not None:
            notice(f"{path}: {holder} died without cleaning up; this run takes its place")
        me = Holder(socket.gethostname(), os.getpid(), datetime.now(timezone.utc).isoformat(timespec="seconds"))
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, json.dumps(me._asdict()).encode() + b"\n")
        os.fsync(descriptor)
        return descriptor


def _open(path: Path) -> tuple[int, bool]:
    """Open the file, and return whether it is new."""
    flags = os.O_RDWR | os.O_CREAT
    try:
        return os.open(path, flags | os.O_EXCL | O_CLOEXEC, 0o666), True
    except FileExistsError:
        return open_in_place(path, flags, is_own=False), False


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _beat(descriptor: int, over: threading.Event) -> None:
    while not over.wait(_BEAT):
        with suppress(OSError):  # a disk that is briefly unavailable
            os.utime(descriptor)


def _is_alive(path: Path) -> bool:
    """Watch whether the file's modification time changes."""
    before = _time_of_change(path)
    end = time.monotonic() + _PATIENCE
    while before is not None and time.monotonic() < end:
        time.sleep(_LOOK)
        now = _time_of_change(path)
        if now is not None and now != before:
            return True
        before = now
    return False


def _time_of_change(path: Path) -> int | None:
    try:
        descriptor = os.open(
            path, os.O_RDONLY | O_NOFOLLOW | O_NONBLOCK
        )  # a network file system refreshes only on open
    except OSError:
        return None
    try:
        return os.fstat(descriptor).st_mtime_ns
    finally:
        os.close(descriptor)


def _taken(path: Path, holder: Holder | None) -> UsageError:
    who = holder or "a run that has just started"
    is_far = holder is not None and holder.host != socket.gethostname()
    gone = f"; if {holder.host} is gone for good, delete {path}" if holder is not None and is_far else ""
    return UsageError(
        f"--output_dir: found {who} in {str(path.parent)!r}, expected no other\n"
        f"  fix: wait until it ends, stop it, or choose another directory{gone}"
    )
