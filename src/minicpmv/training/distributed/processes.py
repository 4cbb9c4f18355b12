"""Provides the collectives of a run other than gradient reduction: values, tensors, faults. No-ops with one process.

Tensors are exchanged by the run's own group, which on GPUs is NCCL's and ends a run in which one process keeps the
others waiting for longer than ``--ddp_timeout``. That is right for a step and wrong for work that one process does for
all: checking a million images, writing a checkpoint, verifying it. So everything else goes through a second group, of
gloo, which waits as long as such work takes and keeps no GPU busy meanwhile.
"""

from __future__ import annotations

import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

import torch.distributed as dist
from torch import Tensor

from minicpmv.errors import MiniCPMVError

__all__ = [
    "LostProcessError",
    "add_up",
    "gather",
    "leave",
    "leave_word",
    "meet",
    "naming_lost_processes",
    "num_processes",
    "patient_group",
    "raise_together",
    "take_maximum",
    "wait_for_all",
]

_T = TypeVar("_T")

_LONGEST_WAIT = timedelta(hours=12)
"""Time that one process may work while the others wait for its result."""

_LOST = re.compile(r"(?i)connection (?:was likely )?(?:closed|reset|refused)|broken pipe|socket closed|remote process")
_LATE = re.compile(r"Timed out waiting \d+ ?ms|wait timeout after \d+ ?ms|collective operation timeout")
_TIME_TO_BE_ENDED = 20.0
"""Seconds. Once a launcher has seen one process fail, it ends all of them much sooner."""


class LostProcessError(MiniCPMVError):
    """Another process of the run has ended or timed out, so that this one cannot go on."""

    is_of_one_process = True


@contextmanager
def naming_lost_processes() -> Iterator[None]:
    """Translate the errors of a lost process into a message; what ended that process is in its own message.

    A launcher reports the process that failed first. So this one gives the launcher time to end the run, and raises
    only where none does.

    Raises:
        LostProcessError: A process is lost; gloo and NCCL raise wherever this process happens to be.
    """
    try:
        yield
    except RuntimeError as error:
        if not _are_several():
            raise
        if _LOST.search(str(error)):
            found, fix = "that another process of the run has ended", "see the message of that process"
        elif _LATE.search(str(error)):
            found = "that another process of the run has not answered in time"
            fix = "find out what that process was doing; --ddp_timeout SECONDS allows a step to wait for longer"
        else:
            raise
        told = _words_of_failed()
        if told:
            fix = f"what ended it: {told}"
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # no step can be finished any more
        time.sleep(_TIME_TO_BE_ENDED)
        last = str(error).strip().splitlines()[0]
        raise LostProcessError(
            f"processes: found {found} ({last}), expected all {num_processes()}\n  fix: {fix}"
        ) from error


def leave_word(message: str) -> None:
    """Leave what ends this process where the others find it when they miss it, on whichever machine they are."""
    if _are_several():
        with suppress(RuntimeError):  # the process that holds the store has ended
            store = _store()
            number = store.add("minicpmv/failed", 1)
            store.set(f"minicpmv/failed/{number}", f"process {dist.get_rank()} on {socket.gethostname()}: {message}")


def _words_of_failed() -> str:
    """Return what the first process that failed has left; nothing if it was killed, or took the store with it."""
    key = "minicpmv/failed/1"
    with suppress(RuntimeError):
        store = _store()
        return store.get(key).decode() if store.check([key]) else ""
    return ""


def _store() -> Any:
    # Private, and the only store that every process has already; a second one would need a port of its own. This may go
    # when torch offers it.
    return dist.distributed_c10d._get_default_store()


def meet() -> None:
    """Create the group that exchanges everything but tensors. All processes must call it at about the same time."""
    if _are_several():
        patient_group()


@cache
def patient_group() -> Any:
    """Return the group that exchanges everything but tensors, where there are several processes."""
    return dist.new_group(backend="gloo", timeout=_LONGEST_WAIT)


def gather(value: _T) -> list[_T]:
    """Gather one picklable value of each process on all of them."""
    if not _are_several():
        return [value]
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, value, group=patient_group())
    return found


def num_processes() -> int:
    """Count the processes of the run."""
    return dist.get_world_size() if _are_several() else 1


def add_up(values: Tensor) -> Tensor:
    """Add up the values of all processes in place, element by element: of any shape, the same on each process."""
    if _are_several():
        dist.all_reduce(values)
    return values


def take_maximum(values: Tensor) -> Tensor:
    """Take the largest value of all processes in place, element by element: of any shape, the same on each process."""
    if _are_several():
        dist.all_reduce(values, op=dist.ReduceOp.MAX)
    return values


def raise_together(action: Callable[[], None]) -> None:
    """Run an action that may fail on one process alone; if it did, no process goes on, and none waits forever.

    Raises:
        MiniCPMVError: What the first process with a fault raised, on every process.
    """
    mine: MiniCPMVError | None = None
    try:
        action()
    except MiniCPMVError as error:
        mine = error
    faults = [fault for fault in gather(mine) if fault is not None]
    if faults:
        first = mine if mine is not None and len(faults) == 1 else faults[0]  # its own traceback says more
        first.is_of_one_process = False
        raise first


def wait_for_all() -> None:
    """Wait until every process has reached this point."""
    if _are_several():
        dist.barrier(group=patient_group())


def leave() -> None:
    """Leave both groups at the end of the process, as NCCL requires of its own."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
        patient_group.cache_clear()


def _are_several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
