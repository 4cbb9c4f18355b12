"""Explains why a path does not lead to a readable file: a broken link, a pipe, no permission, a misspelt name.

It serves data files and pictures alike. Nothing is opened: a pipe or a device would block.
"""

from __future__ import annotations

import difflib
import glob
import os
import re
import shlex
import stat
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from minicpmv.errors import Problem

__all__ = ["PathFault", "describe_missing_data", "find_path_fault", "suggest_name"]

_MAX_NAMES = 10_000
"""Most names of a folder that are compared letter by letter, which takes long."""
_LEAST_SHARED = 5
"""Fewest characters of a name that another ends with, after a prefix such as ``COCO_train2014_``."""
_KINDS: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


@dataclass(frozen=True, slots=True)
class PathFault:
    """Holds the fault of a path, worded for a message."""

    found: str
    fix: str
    is_forbidden: bool = False
    """Whether there may be a file that this user may not read."""


def find_path_fault(path: str) -> PathFault | None:
    """Return why a path cannot be opened as a file; None if it can, or if nothing exists there.

    Args:
        path: The path to open.
    """
    shown = shlex.quote(path)
    try:
        mode = os.stat(path).st_mode
    except PermissionError:
        folder = _closed_folder(path)
        found = f"a folder that you may not enter, {folder!r}, on the way to {path!r}"
        return PathFault(found, f"ask its owner for access: chmod a+x {shlex.quote(folder)}", is_forbidden=True)
    except (OSError, ValueError):
        return _find_broken_link(path)
    for is_kind, name in _KINDS:
        if is_kind(mode):
            fix = "name a file in it" if name == "a folder" else "write what it yields into a file, and name that"
            return PathFault(f"{name}: {path!r}", fix)
    if not os.access(path, os.R_OK, effective_ids=True):
        fix = f"ask its owner for access: chmod a+r {shown}"
        return PathFault(f"a file that you may not read: {path!r}", fix, is_forbidden=True)
    return None


def _closed_folder(path: str) -> str:
    """Return the outermost inaccessible folder of a path."""
    folders = [str(folder) for folder in reversed(PurePath(path).parents)]
    return next(
        (folder for folder in folders if not os.access(folder, os.X_OK, effective_ids=True)),
        folders[-1] if folders else ".",
    )


def _find_broken_link(path: str) -> PathFault | None:
    """Return the fault of the part of a path that is a broken link, if there is one."""
    for part in (str(part) for part in (*reversed(PurePath(path).parents), PurePath(path))):
        try:
            is_broken = os.path.islink(part) and not os.path.exists(part)
        except ValueError:  # not a valid file name
            return None
        if is_broken:
            target = os.readlink(part)
            return PathFault(f"a link to a file that is not there: {part!r} -> {target!r}", _mend_link(part, target))
    return None


def _mend_link(link: str, target: str) -> str:
    shown = shlex.quote(link)
    if "annex/objects/" in target:
        return f"fetch the file: git annex get {shown}"
    if "/.dvc/" in target or "dvc/cache" in target:
        return f"fetch the file: dvc pull {shown}"
    if "/blobs/" in target:
        return "download the data set again: only links into the hub's cache were copied (copy them with cp -L)"
    return f"put the file there, or the file itself in place of the link ({shown})"


def describe_missing_data(source: str) -> Problem | None:
    """Return the problem of a data file that cannot be opened; None if it can.

    Args:
        source: The path, as the user wrote it.
    """
    if fault := find_path_fault(source):
        return Problem("D101", source, fault.found, "a data file", fault.fix)
    if os.path.lexists(source):
        return None
    folder = os.path.dirname(source) or "."
    found = f"no such file in {os.path.realpath(folder)}" if os.path.isdir(folder) else f"no folder {folder}"
    return Problem("D101", source, found, "a data file", _mend_data_path(source) or "correct the path")


def _mend_data_path(source: str) -> str | None:
    if re.match(r"(?:https?|s3|gs|ftp|hf):", source):
        return "download the file, and give its path: nothing is fetched"
    if source.startswith("file:"):
        return f"write the path alone: {_without_scheme(source)}"
    if source.startswith("~"):
        return f"the shell left ~ as it is; write {shlex.quote(os.path.expanduser(source))}"
    parts = [part.strip() for part in source.split(",")]
    if len(parts) > 1 and any(map(os.path.exists, parts)):
        return f"write spaces between files, not commas: {shlex.join(part for part in parts if part)}"
    if glob.has_magic(source) and (found := sorted(glob.glob(source))):
        named = shlex.join(found[:3]) + (" ..." if len(found) > 3 else "")
        return f"leave the quotes away, so that the shell finds the files: {named}"
    if near := suggest_name(source):
        return f"did you mean {near!r}?"
    if re.fullmatch(r"[\w.-]+/[\w.-]+", source) and not os.path.isdir(os.path.dirname(source)):
        return f"correct the path; or download a data set of the hub first: hf download --repo-type dataset {source}"
    return None


def _without_scheme(uri: str) -> str:
    path = uri.removeprefix("file:")
    return path[2:] if path.startswith("//") else path


def suggest_name(path: str) -> str | None:
    """Return an existing file or folder that is similar to the path, or to its first part that does not exist."""
    parts = [*reversed(PurePath(path).parents), PurePath(path)]
    try:
        missing = next((part for part in parts if not os.path.lexists(part)), None)
        names = sorted(os.listdir(missing.parent)) if missing else []
    except (OSError, ValueError):
        return None
    if missing is None:
        return None
    for near in _near_names(missing.name, names):
        candidate = str(PurePath(missing.parent, near, *PurePath(path).parts[len(missing.parts) :]))
        if os.path.exists(candidate):
            return candidate
    return None


def _near_names(name: str, names: Sequence[str]) -> Iterator[str]:
    """Yield names in a folder that may be meant, the likeliest first."""
    nfc = {other: unicodedata.normalize("NFC", other) for other in names}
    own = unicodedata.normalize("NFC", name)
    yield from (other for other, plain in nfc.items() if plain == own)
    yield from (other for other, plain in nfc.items() if plain.casefold() == own.casefold())
    stem = _stem(own)
    yield from (other for other, plain in nfc.items() if _stem(plain) == stem)
    yield from (other for other, plain in nfc.items() if _have_the_same_end(stem, _stem(plain)))
    yield from difflib.get_close_matches(name, names[:_MAX_NAMES], n=3, cutoff=0.85)


def _stem(name: str) -> str:
    return os.path.splitext(name)[0].casefold()


def _have_the_same_end(first: str, second: str) -> bool:
    """Return whether one of two names is the other after a prefix: ``COCO_train2014_000000185326``."""
    short, long = sorted((first, second), key=len)
    return len(short) >= _LEAST_SHARED and long.endswith(short) and long[-len(short) - 1 : -len(short)] in tuple("_-. ")
