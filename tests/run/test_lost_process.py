"""A process that is killed, or the launcher, ends the run with one message; no other leaves a traceback."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.processes import descendants, started
from tests.run.prepared import prepared_python
from tests.run.training import environment, flags, make_data


@contextmanager
def running(python: str, data: str, output: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a long run of two processes; it has a checkpoint."""
    arguments = flags(data, output, "--save_steps", "1", "--num_processes", "2", steps=100_000)
    command = [python, "-m", "minicpmv", "train", *arguments]
    with started(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
        deadline = time.monotonic() + 200
        while not list(output.glob("checkpoint-*")) and run.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        yield run


@pytest.mark.long
def test_killed_process_is_named_by_the_launcher_alone(tmp_path: Path) -> None:
    data, output = make_data(tmp_path, num_records=4), tmp_path / "output"
    with running(prepared_python(), data, output) as run:
        (second,) = [each for each in descendants(run) if each.environ().get("RANK") == "1"]
        second.kill()
        told, _ = run.communicate(timeout=120)
    assert run.returncode == 128 + signal.SIGKILL, told
    assert "training process 1 was killed by SIGKILL, which often means out of memory" in told
    assert "Traceback" not in told
    assert list(output.glob("checkpoint-*"))


@pytest.mark.long
def test_processes_stop_saved_when_their_launcher_is_killed(tmp_path: Path) -> None:
    """With the real interpreter: the system tells a process of its parent's end, and a prepared one has another."""
    data, output = make_data(tmp_path, num_records=4), tmp_path / "output"
    with running(sys.executable, data, output) as run:
        trainings = psutil.Process(run.pid).children()
        run.kill()
        told, _ = run.communicate(timeout=120)  # until the processes have closed it
        _, alive = psutil.wait_procs(trainings, timeout=60)
    assert len(trainings) == 2
    assert alive == []
    assert "stopped by SIGTERM after step " in told
    assert "Traceback" not in told
