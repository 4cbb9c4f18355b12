"""Makes folders that live as long as a process; those of a killed process are removed when the next one is made."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from minicpmv.files.posix import O_CLOEXEC, O_DIRECTORY, O_NOFOLLOW, fcntl, user_id

__all__ = ["scratch_folder"]


@contextmanager
def scratch_folder(purpose: str) -> Iterator[Path]:
    """Make an empty temporary folder that only this user can read, and remove it on exit.

    Args:
        purpose: A word in its name, ``minicpmv-PURPOSE-*``. This user's folders with that word that no process holds
            were left by a killed process, and are removed.

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
    """Make a folder and lock it; retry if another process removed it in between as a left-over."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix))
        try:
            held = _open(folder)
        except FileNotFoundError:
            continue
        with suppress(OSError):  # a file system without locks: nothing is removed there
            fcntl.flock(held, fcntl.LOCK_EX)  # waits for the process that removes it
        if folder.is_dir():  # names are random, so it is the same one
            return folder, held
        os.close(held)


def _remove_if_left(folder: Path) -> None:
    try:
        held = _open(folder)
    except OSError:  # another user's, removed, or not a folder
        return
    try:
        if os.fstat(held).st_uid == user_id():
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
    except OSError:  # held by a live process, or on a file system without locks
        pass
    finally:
        os.close(held)


def _open(folder: Path) -> int:
    return os.open(folder, os.O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
