"""Commands in processes of their own, forked from one that has imported everything, so each starts at once."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import resource
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.run.prepared import fork, prepared_python

TRAINING = "minicpmv.training"

# Below the range from which the system hands out ports: one that was merely found free can be gone a moment later, when
# several test processes start runs at once.
_PORTS = range(21000, 24000)
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_runs = itertools.count(os.getpid())  # so that two test runs on one machine rarely meet


def start(
    arguments: Sequence[str], *, log: Path, module: str = TRAINING, most_file_bytes: int | None = None
) -> BaseProcess:
    """Start ``python -m`` a module, here and in this environment.

    Args:
        arguments: As typed after its name.
        log: What it prints is added here.
        module: The training command, ``minicpmv``, or another.
        most_file_bytes: Every file ends there, as on a disk that is full: the write itself fails.
    """
    return _start([module, *arguments], (os.devnull, str(log), str(log)), {}, most_file_bytes)


def run_command(
    arguments: Sequence[str | Path],
    *,
    module: str = TRAINING,
    processes: int | None = None,
    variables: Mapping[str, str] | None = None,
    typed: str = "",
    timeout: float = 120,
) -> subprocess.CompletedProcess[str]:
    """Run ``python -m`` a module to its end, here and in this environment.

    Args:
        arguments: As typed after its name.
        module: As for :func:`start`.
        processes: How many, as torchrun would start them: when one fails, the others are told to end.
        variables: Of the environment, beside those of this process.
        typed: What it can read.
        timeout: Seconds after which it must have ended.
    """
    words = [module, *map(str, arguments)]
    ranks = [{}] if processes is None else _variables_of_ranks(processes)
    with tempfile.TemporaryDirectory() as name:
        typed_at, *printed_at = (Path(name, stream) for stream in ("stdin", "stdout", "stderr"))
        typed_at.write_text(typed, encoding="utf-8")
        streams = (str(typed_at), *map(str, printed_at))
        started = [_start(words, streams, {**(variables or {}), **rank}) for rank in ranks]
        code = _code_of_all(started, timeout)
        return subprocess.CompletedProcess(words, code, *(path.read_text(encoding="utf-8") for path in printed_at))


def minicpmv(*arguments: str | Path, typed: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command ``minicpmv`` to its end; as :func:`run_command`."""
    return run_command(arguments, module="minicpmv", typed=typed)


def exit_code(process: BaseProcess, *, timeout: float = 90) -> int:
    """Wait for the end; negative for a process that a signal has killed."""
    return _code_of_all([process], timeout)


def _variables_of_ranks(number: int) -> list[dict[str, str]]:
    port = str(_PORTS.start + _WORKER * 100 + next(_runs) % 100)
    common = {"WORLD_SIZE": str(number), "LOCAL_WORLD_SIZE": str(number), "MASTER_ADDR": "127.0.0.1"}
    return [common | {"MASTER_PORT": port, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(number)]


def _start(
    words: list[str], streams: Sequence[str], variables: Mapping[str, str], most_file_bytes: int | None = None
) -> BaseProcess:
    environment = {**os.environ, **variables}
    return fork(_become, words, streams, str(Path.cwd()), environment, prepared_python(), most_file_bytes)


def _code_of_all(processes: Sequence[BaseProcess], timeout: float) -> int:
    """Return 0, or the code of the first that failed."""
    ends = time.monotonic() + timeout
    code = 0
    while True:
        running = [process for process in processes if process.exitcode is None]
        failed = next((process.exitcode for process in processes if process.exitcode), 0)
        if failed and not code:
            code = failed
            for process in running:
                process.terminate()
        if not running:
            return code
        if not wait([process.sentinel for process in running], max(ends - time.monotonic(), 0)):
            for process in running:
                process.kill()
            raise AssertionError(f"the run did not end within {timeout} s")


def _become(
    words: list[str],
    streams: Sequence[str],
    folder: str,
    environment: dict[str, str],
    interpreter: str,
    most_file_bytes: int | None,
) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for number, path in enumerate(streams):
        file = os.open(path, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
    sys.stdin = open(0, encoding="utf-8")  # noqa: SIM115  multiprocessing has put another in its place
    if most_file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_file_bytes, most_file_bytes))
    sys.executable = interpreter  # what it starts itself begins at once, too
    multiprocessing.set_start_method(None, force=True)  # its workers start as everyone's do, not as this process did
    sys.argv = list(words)
    runpy.run_module(words[0], run_name="__main__", alter_sys=True)
