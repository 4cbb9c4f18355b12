"""Checks, before anything expensive, that a command can write its outputs: makes and writes each, then undoes it.

A file that a user named is replaced only where the command says so: if it recognises its own earlier output there.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from minicpmv.errors import UsageError
from minicpmv.files.atomic_files import claim
from minicpmv.terminal.streams import advise

__all__ = ["Recognised", "check_directory", "check_file"]

_PROBE = bytes(4096)
"""Bytes of one disk block: a full disk still accepts an empty file."""


@dataclass(frozen=True, slots=True)
class Recognised:
    """Says which files of its own a command recognises, and therefore may replace."""

    what: str
    """One of them, for messages."""
    is_one: Callable[[BinaryIO], bool]
    """Looks at the content of a file."""


def check_directory(directory: str | Path, *, asked_by: str) -> None:
    """Make sure that a directory can be made and written, and leave everything as it was.

    Args:
        directory: Its path, which need not exist.
        asked_by: The flag that names it; begins the message.

    Raises:
        UsageError: It is a file or below one, may not be written, is on a full or read-only disk, or has no name that
            the disk can hold.
    """
    _probe(Path(directory), str(directory), asked_by=asked_by, file=None)


def check_file(
    file: str | Path,
    *,
    asked_by: str,
    replaces: Recognised | Literal["any", "none"],
    makes_folder: bool = False,
    instead: str = "move it away",
) -> None:
    """Make sure that a file can be made or replaced, and leave everything as it was.

    Args:
        file: Its path, which need not exist.
        asked_by: The flag that names it; begins the message.
        replaces: Which existing file may be replaced: any, none, or what the command itself wrote earlier and one that
            is empty.
        makes_folder: Whether a missing folder will be made.
        instead: What else can be done than to name another file, where this one may not be replaced.

    Raises:
        UsageError: As ``check_directory`` says; or it is a folder or a device, its folder is missing, or there is a
            file that may not be replaced.
    """
    path = Path(file)
    where = _where(asked_by, str(file))
    try:
        mode = path.stat().st_mode if str(file) else None
    except (OSError, ValueError):  # it does not exist; whether it can be made is found out below
        mode = None
    is_named = bool(str(file).strip())
    if not is_named or (mode is not None and not stat.S_ISREG(mode)):
        found = "no name" if not is_named else "a folder" if stat.S_ISDIR(mode or 0) else "a device or pipe"
        raise UsageError(f"{where}: found {found}, expected a file to write\n  fix: name a file, in a folder")
    if mode is not None and replaces != "any":
        _refuse_strange(path, replaces, where=where, instead=instead)
    if not makes_folder and "\0" not in str(path) and not path.parent.exists():
        raise UsageError(
            f"{where}: found no folder {str(path.parent)!r}, expected one\n  fix: make it, or name another"
        )
    _probe(path.parent, str(file), asked_by=asked_by, file=path)


def _refuse_strange(path: Path, replaces: Recognised | Literal["none"], *, where: str, instead: str) -> None:
    """Refuse to replace an existing file that is not recognised; one that cannot be read is not."""
    found, expected = "a file there", "a new one"
    if isinstance(replaces, Recognised):
        with suppress(OSError), path.open("rb") as file:
            if path.stat().st_size == 0 or replaces.is_one(file):
                return
        found, expected = f"a file there that is not {replaces.what}", "a new one, or an earlier one of these"
    raise UsageError(f"{where}: found {found}, expected {expected}\n  fix: name another, or {instead}")


def _probe(directory: Path, named: str, *, asked_by: str, file: Path | None) -> None:
    made: list[Path] = []
    try:
        if not named.strip():
            raise FileNotFoundError(2, "no name")
        _make(directory, made)
        # A file is tried under its temporary name, which is longer.
        with tempfile.TemporaryFile(dir=directory) if file is None else claim(file) as probe:
            probe.write(_PROBE)
            probe.flush()
    except (OSError, ValueError) as error:
        is_named = isinstance(error, ValueError)
        reason = "a NUL in the name" if is_named else _reason(error)
        fix = "name another, or repair this one"
        raise UsageError(
            f"{_where(asked_by, named)}: found {reason}, expected a place that can be written\n"
            f"  fix: {fix if is_named else advise(error, otherwise=fix)}"
        ) from error
    finally:
        for folder in reversed(made):
            with suppress(OSError):  # another process uses it by now
                folder.rmdir()


def _make(directory: Path, made: list[Path]) -> None:
    for folder in (*reversed(directory.parents), directory):
        try:
            if not folder.is_dir():
                folder.mkdir()
                made.append(folder)
        except FileExistsError as error:
            raise NotADirectoryError(error.errno, "a file where a folder is needed", str(folder)) from error


def _reason(error: OSError) -> str:
    strerror = error.strerror or str(error)
    return strerror if error.filename is None else f"{os.fsdecode(error.filename)!r}: {strerror}"


def _where(asked_by: str, named: str) -> str:
    return f"{asked_by} {named!r}".strip()
