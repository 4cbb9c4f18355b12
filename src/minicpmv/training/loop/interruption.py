"""Handles signals that ask a run to stop: it finishes the optimizer step, writes a checkpoint, and ends.

A scheduler's SIGTERM, Ctrl-C, a closed terminal and the SIGUSR1 that Slurm can send before a time limit mean the same.
This module knows signals and nothing of training; ``boundary`` queries it after each step.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from torch.utils.data import DataLoader

from minicpmv.data.samples.workers import end_if_nothing_is_delivered
from minicpmv.files.posix import signals
from minicpmv.training.distributed.console import is_first_process

if sys.platform == "win32":
    ForkContext = ForkProcess = object  # nothing is made of them there
else:
    from multiprocessing.context import ForkContext, ForkProcess

__all__ = ["SIGNALS", "Interrupted", "Interruption", "ShelteringContext", "WorkerStart", "shelter"]

SIGNALS = signals("SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP")

_ONE_EVENT = 1.0
"""Seconds. Ctrl-C reaches a process twice, from the terminal and from its launcher; a later one is deliberate."""

_PATIENCE = 10.0
"""Seconds that a process may take to react to a signal while there is nothing to save."""


class Interrupted(KeyboardInterrupt):
    """A run stopped because a signal asked for it. Not an ``Exception``, so that no handler takes it for a fault.

    Args:
        signal_number: The signal.
        message: For the user: what is saved, and how to resume.
    """

    def __init__(self, signal_number: int, message: str) -> None:
        super().__init__(message)
        self.signal_number = signal_number
        self.message = message

    @property
    def exit_code(self) -> int:
        """The shell's exit code: 143 for SIGTERM, 130 for SIGINT, 138 for SIGUSR1, 129 for SIGHUP."""
        return 128 + self.signal_number


class Interruption:
    """Context manager that remembers a signal to stop.

    Until :meth:`defer` is called, and after :meth:`act_at_once`, nothing would be lost: the first signal raises
    ``Interrupted`` wherever the run is. In between it is only remembered, in ``requested``. A second one ends the
    process as the signal does by default. Before ``defer`` and after ``act_at_once``, a signal ends the process within
    ``_PATIENCE`` even if its main thread cannot react.
    """

    def __init__(self) -> None:
        self.requested: int | None = None
        """The signal that asked to stop, or None."""
        self._message = "nothing was trained yet"
        self._promise: str | None = None
        self._when = 0.0
        self._process = os.getpid()
        self._before: dict[int, Any] = {}
        self._woken: tuple[int, int] | None = None

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():  # Python allows no other thread to set handlers
            heeded = [number for number in SIGNALS if number.name != "SIGHUP" or not _is_ignored(number)]
            self._before = {number: signal.signal(number, self._receive) for number in heeded}
            # Python runs handlers between two bytecodes of the main thread, which may be in a call that does not
            # return, such as joining processes of which one is missing. Python writes to this pipe in any case.
            reading, writing = os.pipe()
            os.set_blocking(writing, False)
            self._woken = (writing, signal.set_wakeup_fd(writing, warn_on_full_buffer=False))
            threading.Thread(target=self._watch, args=(reading,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            if handler is not None:  # None: set by something other than Python
                signal.signal(number, handler)
        if self._woken is not None:
            writing, before = self._woken
            signal.set_wakeup_fd(before)
            os.close(writing)

    def defer(self, promise: str) -> None:
        """Only remember signals from here on.

        Args:
            promise: What the run does before it ends, for the user.
        """
        self._promise = promise

    def act_at_once(self, message: str) -> None:
        """Let a signal stop the run immediately from here on.

        Args:
            message: What is saved, for the user.

        Raises:
            Interrupted: A signal came before.
        """
        self._message = message
        self._promise = None
        if self.requested is not None:
            raise self._interrupted(self.requested)

    def _watch(self, reading: int) -> None:
        """End the process if the main thread does not react to a signal while nothing would be lost."""
        with os.fdopen(reading, "rb", buffering=0) as signals:
            while received := signals.read(1):  # empty once the run is over
                if received[0] not in SIGNALS:
                    continue
                time.sleep(_PATIENCE)
                if self.requested is None and self._promise is None:
                    print(self._interrupted(received[0]).message, file=sys.stderr, flush=True)
                    os._exit(self._interrupted(received[0]).exit_code)

    def _interrupted(self, number: int) -> Interrupted:
        return Interrupted(number, f"stopped by {signal.Signals(number).name}: {self._message}")

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a freshly forked data worker, before WorkerStart
            return
        if self.requested is not None:
            if time.monotonic() - self._when > _ONE_EVENT:
                signal.signal(number, signal.SIG_DFL)
                os.kill(self._process, number)
            return
        self.requested, self._when = number, time.monotonic()
        if self._promise is None:
            raise self._interrupted(number)
        if is_first_process():
            # os.write: the interrupted code may be inside print.
            told = f"\n{signal.Signals(number).name}: {self._promise}; a second signal ends the run at once\n"
            try:
                os.write(2, told.encode())
            except OSError:  # SIGHUP: the terminal is gone, and the next line of the log would end the run unsaved
                _write_nowhere()


def _write_nowhere() -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for output in (1, 2):
        os.dup2(nowhere, output)


def _is_ignored(number: signal.Signals) -> bool:
    """Return whether a signal is ignored, as nohup has it of SIGHUP."""
    return signal.getsignal(number) is signal.SIG_IGN


class WorkerStart:
    """Worker init function that makes a data worker leave signals to its parent.

    A launcher or a scheduler signals all processes of a group. If workers died of that, the step that the run wants to
    finish would fail. The second SIGTERM comes from the parent itself when it ends.

    Args:
        start: Another worker init function, called afterwards with the worker's number.
    """

    def __init__(self, start: Callable[[int], None] | None = None) -> None:
        self._start = start

    def __call__(self, worker: int) -> None:
        signal.set_wakeup_fd(-1)  # inherited from the parent by a fork
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, _outlive_one)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # blocked by _ShelteredProcess
        end_if_nothing_is_delivered()
        if self._start is not None:
            self._start(worker)


class _ShelteredProcess(ForkProcess):
    def start(self) -> None:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # inherited by the fork
        try:
            super().start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


class ShelteringContext(ForkContext):
    """Forks data workers with signals blocked until ``WorkerStart``: handlers that torch sets before would end them."""

    Process = _ShelteredProcess


def _outlive_one(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)


def shelter(loader: DataLoader[Any]) -> DataLoader[Any]:
    """Make a loader's workers leave signals to the run."""
    # accelerate's loaders wrap the one that starts the workers, and copy the outer one to skip batches.
    for each in (loader, getattr(loader, "base_dataloader", loader)):
        if each.num_workers and not isinstance(each.worker_init_fn, WorkerStart):
            each.worker_init_fn = WorkerStart(each.worker_init_fn)
            if (each.multiprocessing_context or multiprocessing).get_start_method() == "fork":
                each.multiprocessing_context = ShelteringContext()
    return loader
