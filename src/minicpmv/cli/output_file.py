"""Checks a command's output file before the work: refuses one that cannot be written, is an input, or is foreign."""

from __future__ import annotations

import os

from minicpmv.errors import UsageError
from minicpmv.files.places import Recognised, check_file

__all__ = ["check_output"]


def check_output(output: str, *inputs: str | None, replaces: Recognised) -> None:
    """Make sure that a file can be written, and that nothing is lost by it.

    Args:
        output: Value of ``--output``.
        inputs: Files that the command reads; None for one that was not given.
        replaces: What the command wrote earlier, which may be replaced.

    Raises:
        UsageError: The file is one of the inputs, is none that the command wrote, or cannot be written.
    """
    for data in inputs:
        if data is not None and os.path.exists(output) and os.path.exists(data) and os.path.samefile(output, data):
            raise UsageError(
                f"--output: found {output!r}, the data file itself, expected another file\n  fix: name another file"
            )
    check_file(output, asked_by="--output", replaces=replaces)
