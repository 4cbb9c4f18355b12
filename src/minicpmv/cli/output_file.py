"""Checks a command's output file before the work: refuses one that cannot be written or is an input."""

from __future__ import annotations

import os

from minicpmv.errors import UsageError
from minicpmv.files.places import check_file

__all__ = ["check_output"]


def check_output(output: str, *inputs: str | None) -> None:
    """Make sure that a file can be written.

    Args:
        output: Value of ``--output``.
        inputs: Files that the command reads; None for one that was not given.

    Raises:
        UsageError: The file is one of the inputs, or cannot be written.
    """
    check_file(output, asked_by="--output")
    for data in inputs:
        if data is not None and os.path.exists(output) and os.path.exists(data) and os.path.samefile(output, data):
            raise UsageError(
                f"--output: found {output!r}, the data file itself, expected another file\n  fix: name another file"
            )
