"""What the processes of a run tell each other beside gradients. In a run of one process nothing is sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist
from torch import Tensor

from minicpmv.errors import MiniCPMVError

__all__ = ["add_up", "gather", "leaders_first", "num_processes", "raise_together", "take_maximum", "wait_for_all"]

_T = TypeVar("_T")


def gather(value: _T) -> list[_T]:
    """Collect one picklable value of each process, on all of them."""
    if not _are_several():
        return [value]
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return found


def num_processes() -> int:
    """Count the processes of the run."""
    return dist.get_world_size() if _are_several() else 1


def add_up(values: Tensor) -> Tensor:
    """Add up the values of all processes, element by element and in place."""
    if _are_several():
        dist.all_reduce(values)
    return values


def take_maximum(values: Tensor) -> Tensor:
    """Take the largest value of all processes, element by element and in place."""
    if _are_several():
        dist.all_reduce(values, op=dist.ReduceOp.MAX)
    return values


def raise_together(action: Callable[[], None]) -> None:
    """Do something that may fail on one process alone; if it did, no process goes on, and none waits for ever.

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


def leaders_first(action: Callable[[], _T], *, is_leader: bool) -> _T:
    """Do something that leaves its result on the disk: the first process of each machine, and then the others.

    Raises:
        MiniCPMVError: What ``action`` raised on any process, on every process.
    """
    done: list[_T] = []
    for whose_turn in (True, False):
        raise_together(lambda turn=whose_turn: done.append(action()) if is_leader is turn else None)
    return done[0]


def wait_for_all() -> None:
    """Wait until every process is here."""
    if _are_several():
        dist.barrier()


def leave() -> None:
    """Leave the group at the end of the process, as NCCL wants it to be left."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def _are_several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
