"""Folders that live as long as a process; what a killed one left is removed by the next that makes such a folder."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["scratch_folder"]


@contextmanager
def scratch_folder(purpose: str) -> Iterator[Path]:
    """Make an empty folder among the system's temporary files, which only this user can read. At the end it is gone.

    Args:
        purpose: A word in its name, ``minicpmv-PURPOSE-*``. Folders of this user with that word that no process holds
            were left by one that was killed, and go.

    Raises:
        OSError: It cannot be made.
    """
    prefix = f"minicpmv-{purpose}-"
    for left in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        _remove_if_left(left)
    folder, held = _make(prefix)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(held)


def _make(prefix: str) -> tuple[Path, int]:
    """Make a folder and lock it, again if between the two another process has taken it for one that was left."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix))
        try:
            held = _open(folder)
        except FileNotFoundError:
            continue
        with suppress(OSError):  # a disk without locks: there, nothing is removed
            fcntl.flock(held, fcntl.LOCK_EX)  # waits for the process that removes it
        if folder.is_dir():  # names are drawn, so it is the same one
            return folder, held
        os.close(held)


def _remove_if_left(folder: Path) -> None:
    try:
        held = _open(folder)
    except OSError:  # another user's, gone, or no folder
        return
    try:
        if os.fstat(held).st_uid == os.geteuid():
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
    except OSError:  # held by a process that lives, or on a disk without locks
        pass
    finally:
        os.close(held)


def _open(folder: Path) -> int:
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
