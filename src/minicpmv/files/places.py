"""Checks, before anything expensive, that a command can write its outputs: makes and writes each, then undoes it."""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from minicpmv.errors import UsageError
from minicpmv.files.atomic_files import claim
from minicpmv.terminal.streams import advise

__all__ = ["check_directory", "check_file"]

_PROBE = bytes(4096)
"""Bytes of one disk block: a full disk still accepts an empty file."""


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


def check_file(file: str | Path, *, asked_by: str, makes_folder: bool = False) -> None:
    """Make sure that a file can be made or replaced, and leave everything as it was.

    Args:
        file: Its path, which need not exist.
        asked_by: The flag that names it; begins the message.
        makes_folder: Whether a missing folder will be made.

    Raises:
        UsageError: As ``check_directory`` says; or it is a folder or a device, or its folder is missing.
    """
    path = Path(file)
    where = _where(asked_by, str(file))
    try:
        mode = path.stat().st_mode if str(file) else None
    except (OSError, ValueError):  # it does not exist; whether it can be made is found out below
        mode = None
    if not str(file) or (mode is not None and not stat.S_ISREG(mode)):
        found = "no name" if not str(file) else "a folder" if stat.S_ISDIR(mode or 0) else "a device or pipe"
        raise UsageError(f"{where}: found {found}, expected a file to write\n  fix: name a file, in a folder")
    if not makes_folder and "\0" not in str(path) and not path.parent.exists():
        raise UsageError(
            f"{where}: found no folder {str(path.parent)!r}, expected one\n  fix: make it, or name another"
        )
    _probe(path.parent, str(file), asked_by=asked_by, file=path)


def _probe(directory: Path, named: str, *, asked_by: str, file: Path | None) -> None:
    made: list[Path] = []
    try:
        if not named:
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
