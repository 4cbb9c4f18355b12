"""Connects the processes of a run for shared work on data: what each has found reaches all, and so does a fault.

Each exchange begins with a few bytes that say whether a process has met a fault. So a process that fails, wherever it
is, sends these, and the others leave the exchange that they are in.
"""

from __future__ import annotations

import pickle
import socket
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from minicpmv.data.sharing import ALONE, Sharing
from minicpmv.errors import MiniCPMVError
from minicpmv.training.distributed.processes import gather, num_processes, patient_group

__all__ = ["work_together"]

T = TypeVar("T")


class _Together:
    """The processes of a run; see ``Sharing``."""

    def __init__(self) -> None:
        self.rank = dist.get_rank()
        self.number = dist.get_world_size()
        self.raised: MiniCPMVError | None = None
        """The last fault that all processes know."""

    def agree(self, action: Callable[[], T]) -> T:
        result: list[T] = []
        fault: MiniCPMVError | None = None
        try:
            result.append(action())
        except MiniCPMVError as error:
            fault = error
        self.confirm(fault)
        return result[0]

    def first(self, action: Callable[[], T]) -> T:
        if self.rank == 0:
            content = self.agree(lambda: _pack(action()))
        else:
            content = self.agree(lambda: torch.empty(0, dtype=torch.uint8))
        sizes = gather(len(content))
        if self.rank:
            content = torch.empty(sizes[0], dtype=torch.uint8)
        dist.broadcast(content, src=0, group=patient_group())
        return _unpack(content)

    def gather(self, value: T) -> list[T]:
        content = self.agree(lambda: _pack(value))
        sizes = gather(len(content))
        longest = max(sizes)
        received = torch.empty(self.number * longest, dtype=torch.uint8)
        sent = torch.nn.functional.pad(content, (0, longest - len(content)))
        dist.all_gather_into_tensor(received, sent, group=patient_group())
        return [_unpack(part[:size]) for part, size in zip(received.split(longest), sizes, strict=True)]

    def deal(self, values: Sequence[T]) -> list[T]:
        contents = self.agree(lambda: [_pack(value) for value in values])
        sent = [len(content) for content in contents]
        sizes = torch.empty(self.number, dtype=torch.int64)
        dist.all_to_all_single(sizes, torch.tensor(sent), group=patient_group())
        incoming = sizes.tolist()
        received = torch.empty(sum(incoming), dtype=torch.uint8)
        dist.all_to_all_single(received, torch.cat(contents), incoming, sent, group=patient_group())
        return [_unpack(part) for part in received.split(incoming)]

    def confirm(self, fault: MiniCPMVError | None) -> None:
        """Exchange a fault, or that there is none.

        Raises:
            MiniCPMVError: That of the first process that has one; where there are several machines, it names that.
        """
        told = gather((fault, socket.gethostname()))
        machines = {machine for _, machine in told}
        for rank, (found, machine) in enumerate(told):
            if found is not None:
                found = fault if rank == self.rank and fault is not None else found  # its own traceback says more
                found.is_of_one_process = False
                if len(machines) > 1:
                    found.args = (f"{found}\n  seen by process {rank}, on {machine}",)
                self.raised = found
                raise found


def work_together(work: Callable[[Sharing], T]) -> T:
    """Do work on data that all processes of the run share. Every process must call it.

    Args:
        work: Calls the same methods of ``Sharing`` in the same order on each process, up to a fault.

    Raises:
        MiniCPMVError: What any process raised, on every process.
    """
    if num_processes() == 1:
        return work(ALONE)
    together = _Together()
    try:
        result = work(together)
    except MiniCPMVError as error:
        if error is not together.raised:
            together.confirm(error)
        raise
    together.confirm(None)
    return result


def _pack(value: Any) -> Tensor:
    return torch.frombuffer(bytearray(pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)), dtype=torch.uint8)


def _unpack(content: Tensor) -> Any:
    return pickle.loads(content.numpy().data)  # noqa: S301  what another process of this run has sent
