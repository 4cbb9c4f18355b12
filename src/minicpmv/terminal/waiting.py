"""Says what a command is waiting for, once it has been silent for some seconds."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from minicpmv.terminal.redaction import clean_text

__all__ = ["waiting"]

_SECONDS_OF_SILENCE = 3.0


@contextmanager
def waiting(what: str, *, after: float = _SECONDS_OF_SILENCE) -> Iterator[None]:
    """Write what is done in this context on standard error, unless it is over soon.

    Args:
        what: Work that begins now, such as ``loading output/lora``.
        after: Seconds of silence.
    """
    # A daemon: an interrupted command must not wait for its own message.
    timer = threading.Timer(after, lambda: print(f"{clean_text(what)} ...", file=sys.stderr, flush=True))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
