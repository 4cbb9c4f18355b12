"""Commands that can be killed: forked from a process that has imported everything, so each starts at once."""

from __future__ import annotations

import multiprocessing
import os
import resource
import sys
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["minicpmv.training.run", "minicpmv.cli.main"])


def start(arguments: Sequence[str], *, log: Path, most_file_bytes: int | None = None) -> BaseProcess:
    """Start the training command.

    Args:
        arguments: Its flags.
        log: What it prints is added here.
        most_file_bytes: Every file ends there, as on a disk that is full: the write itself fails.
    """
    process = _context.Process(target=_train, args=(list(arguments), str(log), most_file_bytes))
    process.start()
    return process


def start_minicpmv(arguments: Sequence[str], *, log: Path) -> BaseProcess:
    """Start the command ``minicpmv``; otherwise as :func:`start`."""
    process = _context.Process(target=_run, args=(list(arguments), str(log)))
    process.start()
    return process


def exit_code(process: BaseProcess, *, timeout: float = 90) -> int:
    """Wait for the end; negative for a process that a signal has killed."""
    process.join(timeout)
    if process.exitcode is None:
        process.kill()
        raise AssertionError(f"the run did not end within {timeout} s")
    return process.exitcode


def _print_into(log: str) -> None:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)


def _run(arguments: list[str], log: str) -> None:
    _print_into(log)
    from minicpmv.cli.main import main

    sys.exit(main(arguments))


def _train(arguments: list[str], log: str, most_file_bytes: int | None) -> None:
    _print_into(log)
    if most_file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_file_bytes, most_file_bytes))
    from minicpmv.training.run import main

    sys.exit(main(arguments))
