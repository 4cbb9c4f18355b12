"""Reports worker processes of torch's ``DataLoader`` that deliver nothing, instead of torch's traceback.

They are killed, find no room for their batches, or hang. torch notices only the first case.
"""

from __future__ import annotations

import errno
import os
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.queues import Queue
from typing import Any, NoReturn

from minicpmv.errors import MiniCPMVError

__all__ = ["WorkerError", "end_if_nothing_is_delivered", "naming_dead_workers"]

_DEAD = re.compile(
    r"DataLoader worker \(pid(?:\(s\))? [\d, ]+\) (?:is killed by signal: (?P<signal>\w[\w ]*)"
    r"|exited(?: unexpectedly with exit code (?P<code>\d+))?)|DataLoader timed out after (?P<seconds>\d+)"
)
_NO_ROOM = 64 + errno.ENOSPC
"""Exit code of a worker that could not hand its batch over; no other of Python's."""


class WorkerError(MiniCPMVError):
    """Says that a worker process has ended early."""

    is_of_one_process = True


def end_if_nothing_is_delivered() -> None:
    """Let this worker end when a batch of its cannot be handed over, as where ``/dev/shm`` is full.

    It would live on without a word to the process that waits for the batch, for ever.
    """
    # Private, and the only place where the fault is known: the thread of the queue that sends. This may go when torch's
    # workers report it themselves.
    hooked: Any = Queue
    hooked._on_queue_feeder_error = staticmethod(_end)


def _end(error: BaseException, batch: object) -> NoReturn:
    if os.strerror(errno.ENOSPC) in str(error):
        os._exit(_NO_ROOM)
    traceback.print_exception(error)
    os._exit(1)


@contextmanager
def naming_dead_workers(fix: str) -> Iterator[None]:
    """Say in words that a worker has ended or is stuck.

    Args:
        fix: Ends the message: how there are fewer of them, and how to go on.

    Raises:
        WorkerError: One has, or is; torch says so wherever the process happens to be.
    """
    try:
        yield
    except RuntimeError as error:
        found = _find(error)
        if found is None:
            raise
        raise WorkerError(
            f"data-loader worker: found that it {_describe(found)}, expected it to live and to deliver as long as the "
            f"records last\n  fix: {fix}"
        ) from error


def _describe(found: re.Match[str]) -> str:
    if found["seconds"]:
        return f"has delivered nothing for {found['seconds']} seconds"
    if found["signal"]:
        cause = "for want of room in /dev/shm" if "Bus" in found["signal"] else "by the kernel, for want of memory"
        return f"was killed by a signal ({found['signal'].strip()}), most likely {cause}"
    if found["code"] == str(_NO_ROOM):
        return "had no room in /dev/shm for what it has made"
    return "has ended, most likely for want of memory"


def _find(error: BaseException | None) -> re.Match[str] | None:
    """Look for torch's words in an error and in those that it came from; the first of these knows most."""
    first = None
    while error is not None:
        first = (_DEAD.search(str(error)) if isinstance(error, RuntimeError) else None) or first
        error = error.__cause__ or error.__context__
    return first
