"""A file that a command writes: what would fail, or overwrite what is read, is refused before the work."""

from __future__ import annotations

import os

from minicpmv.errors import UsageError

__all__ = ["check_output"]


def check_output(output: str, *inputs: str | None) -> None:
    """Make sure that a file can be written.

    Args:
        output: As given for ``--output``.
        inputs: Files that the command reads; None for one that was not given.

    Raises:
        UsageError: Its folder is missing, it is a folder, or one of the inputs.
    """
    folder = os.path.dirname(output) or "."
    if not os.path.isdir(folder):
        raise UsageError(f"--output: found no folder {folder!r}, expected one\n  fix: make it, or name another")
    if os.path.isdir(output):
        raise UsageError(f"--output: found {output!r}, a folder; expected a file to write\n  fix: add a file name")
    for data in inputs:
        if data is not None and os.path.exists(output) and os.path.exists(data) and os.path.samefile(output, data):
            raise UsageError(f"--output: found {output!r}, the data file itself\n  fix: name another file")
