"""Runs one model in several processes, each with a full copy on its own device, or in this process alone.

Callers pass a function from tasks to results, and get the results in the order of the tasks. So answers do not depend
on the number of processes, as long as a task's result does not depend on other tasks.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from queue import SimpleQueue
from typing import Any, Protocol, TypeVar

import torch

from minicpmv.errors import MiniCPMVError, UsageError
from minicpmv.inference.loading import LoadedModel, load_processor
from minicpmv.processing.processor import MiniCPMVProcessor
from minicpmv.wording import counted

__all__ = ["Models", "ThisProcess", "Work", "choose_devices", "open_models"]

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")

Work = Callable[[LoadedModel, Iterator[_Task]], Iterator[_Result]]
"""Function that yields a result for each task, in order. For other processes all three must be picklable."""

_AT_HAND = 2
"""Most tasks of a process: the current one, and the next, whose pictures it may read meanwhile."""
_PATIENCE = 10.0
"""Seconds that a process may take to exit."""


class Models(Protocol):
    """Applies a model to tasks."""

    processor: MiniCPMVProcessor

    def map(self, work: Work[_Task, _Result], tasks: Iterable[_Task]) -> Iterator[_Result]:
        """Yield the result of each task, in order.

        Raises:
            MiniCPMVError: A task failed, raised in its turn; or a process has exited.
        """
        ...


class ThisProcess:
    """A model in this process.

    Args:
        loaded: The model.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self.processor = loaded.processor
        self._loaded = loaded

    def map(self, work: Work[_Task, _Result], tasks: Iterable[_Task]) -> Iterator[_Result]:
        return work(self._loaded, iter(tasks))


def choose_devices(device: str, num_processes: int | None, *, num_gpus: int) -> list[str]:
    """Choose the device of each process.

    >>> choose_devices("cuda", None, num_gpus=2)
    ['cuda:0', 'cuda:1']
    >>> choose_devices("cuda:1", None, num_gpus=2)
    ['cuda:1']

    Args:
        device: As for ``load_model``; without a number all GPUs.
        num_processes: Number of processes; by default one for each GPU, or one.
        num_gpus: Number of the machine's GPUs.

    Raises:
        UsageError: There are fewer devices than processes.
    """
    if device != "cuda" or not num_gpus:
        if device != "cpu" and (num_processes or 1) > 1:
            raise UsageError(
                f"--device {device} --processes {num_processes}: found one device for {num_processes} processes, "
                "expected one for each\n  fix: leave out --device, for all GPUs, or remove --processes"
            )
        return [device] * (num_processes or 1)
    if (num_processes or 1) > num_gpus:
        raise UsageError(
            f"--processes {num_processes}: found {counted(num_gpus, 'GPU')}, expected one for each process\n"
            f"  fix: --processes {num_gpus}, or leave it out"
        )
    return [f"cuda:{number}" for number in range(num_processes or num_gpus)]


def open_models(
    name: str, load: Callable[[str], LoadedModel], devices: Sequence[str]
) -> AbstractContextManager[Models]:
    """Load a model on each device, until the ``with`` statement ends; a single device is used in this process.

    Args:
        name: Name of the model, as for ``load_model``.
        load: Called with a device; for several it must be picklable.
        devices: At least one.
    """
    return nullcontext(ThisProcess(load(devices[0]))) if len(devices) == 1 else _Processes(name, load, devices)


@dataclass(frozen=True, slots=True)
class _Fault:
    """A message that a process sends instead of a result before it exits."""

    error: MiniCPMVError


@dataclass(eq=False, slots=True)
class _Child:
    device: str
    process: Any
    connection: Connection[Any, Any]
    at_hand: deque[int] = field(default_factory=deque)
    """Numbers of the tasks that it has, in order."""
    knows_the_end: bool = False
    """Whether the end of tasks was sent to it."""


class _Processes:
    """Starts processes on entry, and always ends them on exit."""

    def __init__(self, name: str, load: Callable[[str], LoadedModel], devices: Sequence[str]) -> None:
        self.processor = load_processor(name)
        self._load, self._devices = load, devices
        self._children: list[_Child] = []

    def __enter__(self) -> Models:
        context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
        num_threads = max(1, torch.get_num_threads() // len(self._devices))
        # Ctrl-C reaches all processes of a terminal. Only this one handles it; the others inherit that it is ignored.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            for device in self._devices:
                ours, theirs = context.Pipe()
                process = context.Process(target=_serve, args=(theirs, self._load, device, num_threads), daemon=True)
                self._children.append(_Child(device, process, ours))
                process.start()
                theirs.close()  # so that its exit is noticed
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return self

    def __exit__(self, *failure: object) -> None:
        for child in self._children:
            child.connection.close()  # which ends it
        for child in self._children:
            child.process.join(_PATIENCE)
            if child.process.is_alive():
                child.process.kill()

    def map(self, work: Work[_Task, _Result], tasks: Iterable[_Task]) -> Iterator[_Result]:
        source = enumerate(_until_a_fault(tasks))
        done: dict[int, Any] = {}
        for child in self._children:
            child.knows_the_end = False
            self._send(child, work)
        for child in self._children * _AT_HAND:
            self._give(child, source, done)
        turn = 0
        while True:
            while turn in done:
                result = done.pop(turn)
                if isinstance(result, _Fault):
                    raise result.error
                yield result
                turn += 1
            busy = {child.connection: child for child in self._children if child.at_hand}
            if not busy:
                return
            for connection in wait(list(busy)):
                child = busy[connection]  # pyright: ignore[reportArgumentType]
                done[child.at_hand.popleft()] = result = self._receive(child)
                if isinstance(result, _Fault):  # raised after all earlier ones; no process begins another
                    source = iter(())
                    child.at_hand.clear()
                else:
                    self._give(child, source, done)

    def _give(self, child: _Child, source: Iterator[tuple[int, Any]], done: dict[int, Any]) -> None:
        """Send a process its next task, or once the end of tasks."""
        number, task = next(source, (0, None))
        if isinstance(task, _Fault):
            done[number], task = task, None
        if task is not None:
            child.at_hand.append(number)
        elif child.knows_the_end:
            return
        child.knows_the_end = task is None
        self._send(child, task)

    def _send(self, child: _Child, message: Any) -> None:
        try:
            child.connection.send(message)
        except BrokenPipeError as error:
            raise self._ended(child) from error

    def _receive(self, child: _Child) -> Any:
        try:
            return child.connection.recv()
        except (EOFError, ConnectionResetError) as error:
            raise self._ended(child) from error

    def _ended(self, child: _Child) -> MiniCPMVError:
        """Describe why a process has exited: by its own last message, or by its exit code."""
        with suppress(EOFError, ConnectionResetError):
            while child.connection.poll():
                said = child.connection.recv()
                if isinstance(said, _Fault):
                    return said.error
        child.process.join(_PATIENCE)
        return UsageError(
            f"--processes: found that the process on {child.device} has exited with {child.process.exitcode}, expected "
            "its answers\n"
            "  fix: see what it printed above (nothing and -9: out of memory); fewer --processes need less memory"
        )


def _until_a_fault(tasks: Iterable[Any]) -> Iterator[Any]:
    try:
        yield from tasks
    except MiniCPMVError as error:
        yield _Fault(error)


def _serve(connection: Connection[Any, Any], load: Callable[[str], LoadedModel], device: str, num_threads: int) -> None:
    """Work on the parent's tasks in a separate process, for as long as the parent lives."""
    messages: SimpleQueue[Any] = SimpleQueue()
    threading.Thread(target=_listen, args=(connection, messages), daemon=True).start()
    if device == "cpu":
        torch.set_num_threads(num_threads)
    else:
        torch.cuda.set_device(device)  # or every process would take some of the first one's memory as well
    try:
        loaded = load(device)
        while True:
            work = messages.get()
            for result in work(loaded, iter(messages.get, None)):
                connection.send(result)
    except MiniCPMVError as error:
        connection.send(_Fault(error))
    except BrokenPipeError:  # the listening thread ends the process
        pass


def _listen(connection: Connection[Any, Any], messages: SimpleQueue[Any]) -> None:
    """Read messages from the pipe immediately, so that parent and child never block each other by sending."""
    try:
        while True:
            messages.put(connection.recv())
    except (EOFError, ConnectionResetError):  # the parent has exited, or has no more tasks
        os._exit(0)
