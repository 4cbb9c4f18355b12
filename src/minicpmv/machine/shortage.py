"""Reports that memory ran out, an accelerator's or the machine's, wherever it happens. It loads nothing heavy."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from minicpmv.errors import MiniCPMVError

__all__ = ["MemoryShortageError", "find_shortage", "naming_shortage"]

# torch's own class for accelerators is one of these RuntimeErrors, but not the only one: its CPU allocator,
# cuBLAS, cuDNN and NCCL word it differently.
_WORDS = re.compile(r"(?i)out of memory|(?:can't|cannot) allocate memory|not enough memory|_ALLOC_FAILED|bad_alloc")

_NO_ROOM_TO_LOAD = "failed to map segment from shared object"
"""The loader's words. It adds a reason where the disk is one from which nothing may be run."""

_ACCOUNT = re.compile(r"\s(?:Process \d+ has|Including non-PyTorch memory|Of the allocated memory|If reserved but)")
"""Rest of torch's message, after the numbers that a reader needs."""
_PLACE = re.compile(r"^\[enforce fail at [^]]*\] .*?: ")
"""Place in torch's code with which another message begins."""


class MemoryShortageError(MiniCPMVError):
    """Says that there is too little memory for what a command was asked to do."""

    is_of_one_process = True


@contextmanager
def naming_shortage(where: str | Callable[[], str], what: str | Callable[[], str], *, fix: str) -> Iterator[None]:
    """Turn an out-of-memory error into a message. Functions are called only then.

    Args:
        where: The flag, step or model with which the message begins.
        what: What there was no room for, as a noun.
        fix: What to change.

    Raises:
        MemoryShortageError: Memory ran out.
    """
    try:
        yield
    except (ImportError, MemoryError, OSError, RuntimeError) as error:
        said = find_shortage(error)
        if said is None:
            raise
        place, noun = (each if isinstance(each, str) else each() for each in (where, what))
        raise MemoryShortageError(
            f"{place}: found too little memory for {noun} ({said}), expected room for it\n  fix: {fix}"
        ) from error


def find_shortage(error: BaseException) -> str | None:
    """Return what an error says about exhausted memory, in a sentence or two; None if it is about something else."""
    text = str(error).strip()
    if isinstance(error, OSError):
        return error.strerror if error.errno == errno.ENOMEM else None
    if isinstance(error, MemoryError):
        return text.splitlines()[0] if text else "the machine's memory is used up"
    if isinstance(error, ImportError):  # of torch's libraries, where a process may have only so much (ulimit -v)
        return text if text.endswith(_NO_ROOM_TO_LOAD) else None
    if isinstance(error, RuntimeError):
        line = next((line for line in text.splitlines() if _WORDS.search(line)), None)
        return None if line is None else _ACCOUNT.split(_PLACE.sub("", line.strip()))[0]
    return None
