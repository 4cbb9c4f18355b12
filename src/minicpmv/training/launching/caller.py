"""Tells a program that has started a run by ``minicpmv.train`` what it cannot read from what the run prints.

Those are its steps, for a progress bar, and its error, to be raised there. They are appended to a file, a line of JSON
for each, because a pipe would not reach the processes that torchrun starts. Without a caller nothing is written.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from minicpmv import errors
from minicpmv.errors import DataError, MiniCPMVError, Problem
from minicpmv.terminal.redaction import clean_text

__all__ = ["CALLER", "read_error", "read_events", "tell_error", "tell_step", "tell_stop"]

CALLER = "MINICPMV_CALLER"
"""Environment variable with the file's path."""


def tell_step(step: int, max_steps: int) -> None:
    """Tell how far the run is."""
    _tell({"step": step, "max_steps": max_steps})


def tell_stop(message: str) -> None:
    """Tell that a signal stopped the run, and what is saved."""
    _tell({"stopped": message})


def tell_error(error: MiniCPMVError, *, known: Iterable[str] = ()) -> bool:
    """Tell the error that ends the run.

    Args:
        error: Of the run.
        known: Secrets of the command line.

    Returns:
        Whether there is a caller, which says it.
    """
    problems = error.problems if isinstance(error, DataError) else ()
    kinds = [kind.__name__ for kind in type(error).__mro__]
    message = clean_text(str(error), known=known)
    return _tell({"error": kinds, "message": message, "problems": [asdict(problem) for problem in problems]})


def _tell(event: dict[str, Any]) -> bool:
    place = os.environ.get(CALLER)
    if place is None:
        return False
    with suppress(OSError):  # the caller is gone
        with open(place, "a", encoding="utf-8") as file:
            file.write(json.dumps(event) + "\n")
        return True
    return False


def read_events(file: Path, start: int) -> tuple[list[dict[str, Any]], int]:
    """Return the whole lines of a file behind a position in bytes, and the position behind them."""
    with file.open("rb") as opened:
        opened.seek(start)
        text = opened.read()
    whole = text[: text.rfind(b"\n") + 1]
    return [json.loads(line) for line in whole.splitlines()], start + len(whole)


def read_error(event: dict[str, Any]) -> MiniCPMVError:
    """Make the error again, of its own class or the nearest one that ``minicpmv.errors`` has."""
    kind = next(_known(event["error"]))
    error = kind.__new__(kind, event["message"])
    if isinstance(error, DataError):
        error.problems = tuple(Problem(**problem) for problem in event["problems"])
    return error


def _known(names: Iterable[str]) -> Iterator[type[MiniCPMVError]]:
    for name in names:
        found = getattr(errors, name, None)
        if isinstance(found, type) and issubclass(found, MiniCPMVError):
            yield found
