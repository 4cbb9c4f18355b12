"""Commands in processes of their own, forked from one that has imported everything, so each starts at once."""

from __future__ import annotations

import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
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


def minicpmv(*arguments: str | Path, typed: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command ``minicpmv`` to its end, here and in this environment.

    Args:
        arguments: As typed after its name.
        typed: What it can read.
    """
    words = list(map(str, arguments))
    with tempfile.TemporaryDirectory() as name:
        streams = [Path(name, stream) for stream in ("stdin", "stdout", "stderr")]
        streams[0].write_text(typed, encoding="utf-8")
        given = (words, list(map(str, streams)), str(Path.cwd()), dict(os.environ))
        process = _context.Process(target=_run_between, args=given)
        process.start()
        code = exit_code(process)
        printed = (stream.read_text(encoding="utf-8") for stream in streams[1:])
        return subprocess.CompletedProcess(words, code, *printed)


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


def _run_between(arguments: list[str], streams: list[str], folder: str, environment: dict[str, str]) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for number, path in enumerate(streams):
        file = os.open(path, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT)
        os.dup2(file, number)
    sys.stdin = open(0, encoding="utf-8")  # noqa: SIM115  multiprocessing has put another in its place
    from minicpmv.cli.main import main

    sys.exit(main(arguments))


def _train(arguments: list[str], log: str, most_file_bytes: int | None) -> None:
    _print_into(log)
    if most_file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_file_bytes, most_file_bytes))
    from minicpmv.training.run import main

    sys.exit(main(arguments))
