"""Prints a run's messages on the terminal: once, from rank 0, whatever the number of processes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable

from minicpmv.terminal import streams
from minicpmv.terminal.redaction import clean_text

__all__ = ["complain", "is_first_process", "notice", "say"]

_TIME_TO_SPEAK = 20.0
"""Seconds. Far more than the time between two processes finding the same fault."""


def is_first_process() -> bool:
    """Return whether this process prints for all of them."""
    # torchrun states the rank before any library knows it; without a launcher there is one process.
    return os.environ.get("RANK", "0") == "0"


def say(message: str = "") -> None:
    """Print a line of the run's report."""
    if is_first_process():
        print(message, flush=True)


def notice(message: str) -> None:
    """Print a notice of a choice that was overruled or made for the user."""
    say(f"notice: {clean_text(message)}")


def complain(message: str, *, everywhere: bool = False, known: Iterable[str] = ()) -> None:
    """Print an error that stops the run; a process that leaves this to rank 0 waits until rank 0 has printed it.

    A launcher ends all processes as soon as one of them has failed, so the wait is over when rank 0 exits.

    Args:
        message: Complete in itself.
        everywhere: Whether each process prints its own error, because the others may not have seen it.
        known: Secrets of the command line, which are redacted.
    """
    first = is_first_process()
    if first or everywhere:
        who = "error" if first else f"error in process {os.environ['RANK']}"
        streams.complain(f"{who}: {message}", known=known)
    else:
        time.sleep(_TIME_TO_SPEAK)
