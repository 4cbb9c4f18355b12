"""Files that are whole or as they were before, and that whoever may read a new file there may read."""

from __future__ import annotations

import errno
import json
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

__all__ = ["give_ordinary_permissions", "replacing", "write_json", "write_whole"]


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file in one step."""
    write_whole(path, json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n")


def write_whole(path: Path, text: str) -> None:
    """Write a text file in one step. Only one process may; what it leaves when it is killed, the next one replaces."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)  # half of one on a full disk


_OF_A_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)


@contextmanager
def replacing(path: Path, *, refused: Callable[[OSError], Exception]) -> Iterator[BinaryIO]:
    """Open a file to be written that appears under its name when it is whole; several processes may.

    Args:
        path: The file.
        refused: Words what is raised where its folder cannot be written, or its disk is full.
    """
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        file = aside.open("xb")  # not tempfile's, which nobody else may read
    except OSError as error:
        raise refused(error) from error
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError as error:
        if error.filename is None and error.errno in _OF_A_DISK:  # of this file: another one's has its name
            raise refused(error) from error
        raise
    finally:
        aside.unlink(missing_ok=True)  # after an interruption too: nothing half written stays behind


def give_ordinary_permissions(folder: Path) -> None:
    """Give every file in a folder the permissions that a new file gets there, by the umask and the folder's own rules.

    safetensors writes files that only their owner may read. Files that another process removes meanwhile are passed by.
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
