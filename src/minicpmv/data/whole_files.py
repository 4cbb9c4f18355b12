"""Files that are whole or as they were before."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

__all__ = ["replacing", "write_json", "write_whole"]


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


@contextmanager
def replacing(path: Path, *, refused: Callable[[OSError], Exception]) -> Iterator[BinaryIO]:
    """Open a file to be written that appears under its name when it is whole; several processes may.

    Args:
        path: The file.
        refused: Words what is raised where its folder cannot be written.
    """
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise refused(error) from error
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)  # after an interruption too: nothing half written stays behind


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
