"""What a run says on the terminal: once, by the first process, whatever the number of processes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable

from minicpmv.terminal import streams
from minicpmv.terminal.redaction import clean_text

__all__ = ["complain", "is_first_process", "notice", "say"]

_TIME_TO_SPEAK = 20.0
"""Seconds. Much longer than processes that find the same fault are apart."""


def is_first_process() -> bool:
    """Whether this process speaks for all of them."""
    # torchrun states the rank before any library knows it; without a launcher there is one process.
    return os.environ.get("RANK", "0") == "0"


def say(message: str = "") -> None:
    """Print a line of the run's report."""
    if is_first_process():
        print(message, flush=True)


def notice(message: str) -> None:
    """Tell about a choice that was overruled or made for the user."""
    say(f"notice: {clean_text(message)}")


def complain(message: str, *, everywhere: bool = False, known: Iterable[str] = ()) -> None:
    """Print an error that stops the run; a process that leaves this to the first one waits until that has spoken.

    A launcher ends all processes as soon as one of them has failed. So the wait is over when the first process ends.

    Args:
        message: Complete in itself.
        everywhere: Whether each process says its own, because the others may know nothing of it.
        known: Secrets of the command line.
    """
    first = is_first_process()
    if first or everywhere:
        who = "error" if first else f"error in process {os.environ['RANK']}"
        streams.complain(f"{who}: {message}", known=known)
    else:
        time.sleep(_TIME_TO_SPEAK)
