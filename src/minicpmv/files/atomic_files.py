"""Writes files so that they are either complete or unchanged, and readable by everyone who may read new files there.

An unfinished file has one fixed name per target, which one process at a time holds by a lock. So what a
killed process leaves is replaced by the next one and never piles up. Others know that name as well, and a link there
would lead to another file: ``open_in_place`` opens files with a fixed name safely.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from minicpmv.errors import UsageError
from minicpmv.files.posix import O_CLOEXEC, O_DIRECTORY, O_NOFOLLOW, O_NONBLOCK, fcntl, user_id

__all__ = [
    "STAGING",
    "aside_of",
    "claim",
    "give_ordinary_permissions",
    "open_in_place",
    "replacing",
    "staging",
    "write_json",
    "write_whole",
]

STAGING = ".saving"
"""Folder inside an output directory for files that are being written or deleted; never read."""


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file in one step."""
    write_whole(path, json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n")


def write_whole(path: Path, text: str) -> None:
    """Write a text file in one step.

    Raises:
        OSError: It cannot be written, or another process writes it (``BlockingIOError``).
    """
    with claim(path) as file:
        file.write(text.encode("utf-8"))
        file.flush()
        os.replace(aside_of(path), path)


_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""Errors of network file systems without locks."""
_OF_A_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)


@contextmanager
def replacing(path: Path, *, refused: Callable[[OSError], Exception]) -> Iterator[BinaryIO]:
    """Open a file for writing that appears under its name only when it is complete.

    Args:
        path: The file.
        refused: Makes the exception for a folder that cannot be written, a full disk, or another process that writes
            the same file (``BlockingIOError``).
    """
    with ExitStack() as stack:
        try:
            file = stack.enter_context(claim(path))
        except OSError as error:
            raise refused(error) from error
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
        except OSError as error:
            if error.filename is None and error.errno in _OF_A_DISK:  # this file's error: another file's carries a name
                raise refused(error) from error
            raise
        try:
            os.replace(aside_of(path), path)
        except OSError as error:
            raise refused(error) from error


@contextmanager
def claim(path: Path) -> Iterator[BinaryIO]:
    """Open the empty temporary file in which ``path`` is written. On exit it is removed, unless it has been renamed.

    Raises:
        BlockingIOError: Another process writes it.
        UsageError: As ``open_in_place`` says.
        OSError: It cannot be made.
    """
    aside = aside_of(path)
    number = _lock(aside, os.O_RDWR | os.O_CREAT)
    file = open(number, "r+b")  # noqa: SIM115  closed below, even where closing fails
    try:
        file.truncate(0)  # what a killed process left
        yield file
    finally:
        _remove_own(aside, number, os.unlink)
        with suppress(OSError):  # no room for the buffered rest: the first error was raised already
            file.close()


@contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """Make an empty staging folder. On exit it is removed, unless it has been renamed.

    Args:
        folder: Where to make it; anything in it is deleted.

    Raises:
        BlockingIOError: Another process works in it.
        UsageError: As ``open_in_place`` says.
        OSError: It cannot be made.
    """
    number = _lock(folder, os.O_RDONLY | O_DIRECTORY)
    try:
        for left in folder.iterdir():  # by a killed process
            shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
        yield folder
    finally:
        _remove_own(folder, number, lambda place: shutil.rmtree(place, ignore_errors=True))
        os.close(number)


def aside_of(path: Path) -> Path:
    """Return the temporary name of a file until it is complete."""
    return path.with_name(f".{path.name}.tmp")


def open_in_place(place: Path, how: int, *, is_own: bool = True) -> int:
    """Open a file or folder with a fixed name, without following a link and without waiting for another process.

    Args:
        place: Its name.
        how: Flags of ``os.open``; with ``O_DIRECTORY`` it is a folder.
        is_own: Whether it must be this user's.

    Returns:
        A descriptor, to be closed.

    Raises:
        UsageError: It is a link, of another kind, or another user's.
        OSError: The system cannot open it.
    """
    try:
        number = os.open(place, how | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0o666)
    except OSError:
        with suppress(OSError):  # it does not exist: the first error says why
            _refuse_strange(place, place.lstat(), how, is_own=is_own)
        raise
    try:
        _refuse_strange(place, os.fstat(number), how, is_own=is_own)
    except BaseException:  # Ctrl-C as well: close the file, then re-raise
        os.close(number)
        raise
    return number


def _refuse_strange(place: Path, state: os.stat_result, how: int, *, is_own: bool) -> None:
    kind = stat.S_IFMT(state.st_mode)
    kinds = {stat.S_IFLNK: "a link", stat.S_IFREG: "a file", stat.S_IFDIR: "a folder"}
    found, needed = kinds.get(kind, "a FIFO, socket or device"), "a folder" if how & O_DIRECTORY else "a file"
    if found != needed or (is_own and not _is_own(place, state)):
        of_other = " of another user" if found == needed else ""
        owned = " of this user" if is_own else ""
        raise UsageError(
            f"{str(place)!r}: found {found}{of_other}, expected nothing, or {needed}{owned}\n"
            "  fix: rename or remove it, or name another place"
        )


def _is_own(place: Path, state: os.stat_result) -> bool:
    if state.st_uid == user_id():
        return True
    try:  # some network file systems give all files of a user, or of all users, to one owner
        with tempfile.TemporaryFile(dir=place.parent) as fresh:
            return state.st_uid == os.fstat(fresh.fileno()).st_uid
    except OSError:
        return False


def _lock(place: Path, how: int) -> int:
    """Open a file or folder that no other process has locked, making it if missing, and lock it."""
    while True:
        if how & O_DIRECTORY:
            with suppress(FileExistsError):  # opening it finds out its kind
                place.mkdir()
        try:
            number = open_in_place(place, how)
        except FileNotFoundError:
            if place.parent.is_dir() and how & O_DIRECTORY:  # removed a moment ago
                continue
            raise
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(place, number):  # and not a file that another process has renamed or removed meanwhile
                return number
        except BlockingIOError as error:
            os.close(number)
            raise BlockingIOError(error.errno, "another process that writes there", str(place)) from error
        except OSError as error:
            if error.errno in _WITHOUT_LOCKS:
                return number
            os.close(number)
            raise
        os.close(number)


def _is_at(place: Path, number: int) -> bool:
    try:
        return os.path.samestat(os.stat(place, follow_symlinks=False), os.fstat(number))
    except FileNotFoundError:
        return False


def _remove_own(place: Path, number: int, remove: Callable[[Path], object]) -> None:
    if _is_at(place, number):  # otherwise it has been renamed, or another process has started over
        remove(place)


def give_ordinary_permissions(folder: Path) -> None:
    """Give every file in a folder the permissions that a new file gets there, by the umask and the folder's own rules.

    safetensors writes files that only their owner may read. Files that another process removes meanwhile are skipped.
    """
    if not folder.is_dir():
        return
    fresh = folder / f".{secrets.token_hex(8)}"
    with fresh.open("xb") as file:
        ordinary = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
    fresh.unlink()
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            state = path.lstat()
            if stat.S_ISREG(state.st_mode) and stat.S_IMODE(state.st_mode) != ordinary:
                path.chmod(ordinary)
