"""Reads an argument that names a file, a folder or a model."""

from __future__ import annotations

import os

from minicpmv.errors import UsageError

__all__ = ["path_of"]


def path_of(value: object, name: str) -> str:
    """Return a path as text.

    Args:
        value: As given.
        name: Of the argument.

    Raises:
        UsageError: It is no path, or an empty one.
    """
    path = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    if not isinstance(path, str) or not path:
        raise UsageError(f"{name}: found {value!r}, expected a path, as text or a pathlib.Path\n  fix: name one")
    return path
