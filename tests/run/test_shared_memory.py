"""Little room in /dev/shm, as in a container: a run trains without workers, or ends with a message. It never waits."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.repository import ROOT
from tests.run.devices import can_show_devices, showing
from tests.run.prepared import prepared_python_within
from tests.run.training import environment, flags, losses, make_data, read_run

pytestmark = pytest.mark.skipif(not can_show_devices(), reason="needs user namespaces, to shrink /dev/shm")


@pytest.fixture(scope="module")
def python() -> Iterator[str]:
    """A Python on a machine whose /dev/shm can be given another size."""
    with prepared_python_within(showing) as python:
        yield python


def give_room(python: str, size: str) -> None:
    remount = f"import os; os.execvp('mount', ['mount', '-o', 'remount,size={size}', '/dev/shm'])"
    subprocess.run([python, "-c", remount], check=True)


@pytest.mark.long
def test_run_trains_and_evaluates_without_the_workers_that_have_no_room(tmp_path: Path, python: str) -> None:
    data, seen = make_data(tmp_path), {}
    evaluated = ["--eval_data_path", data, "--eval_strategy", "steps", "--eval_steps", "2", "--eval_samples", "0"]
    for shared in ("400k", "1g"):
        output = tmp_path / shared
        words = flags(data, output, *evaluated, "--dataloader_num_workers", "2", "--dataloader_prefetch_factor", "2")
        command = [python, "-m", "minicpmv.training", *words]
        give_room(python, shared)
        ended = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False, timeout=300)
        assert ended.returncode == 0, ended.stderr
        told = (
            "notice: data workers in each process: 0 for training and 0 for evaluation instead of 2, because /dev/shm"
        )
        assert (told in ended.stdout) == (shared == "400k")
        seen[shared] = read_run(output)
    assert losses(seen["400k"]) == losses(seen["1g"])


_WORKERS = """
import sys, torch
from torch.utils.data import DataLoader
from minicpmv.data.samples.workers import naming_dead_workers
from minicpmv.errors import MiniCPMVError
from minicpmv.training.loop.interruption import ShelteringContext, WorkerStart
batches = [torch.zeros(2**17)] * 4
with torch.autograd.profiler.record_function("first"):
    pass  # torch imports modules here, and would swallow what the dead worker raises meanwhile
start = dict(worker_init_fn=WorkerStart(), multiprocessing_context=ShelteringContext())
try:
    with naming_dead_workers("make room"):
        print(len(list(DataLoader(batches, batch_size=None, num_workers=1, **start))))
except MiniCPMVError as error:
    sys.exit(str(error))
"""


@pytest.mark.parametrize(("shared", "works"), [("400k", False), ("8m", True)])
def test_worker_that_finds_no_room_ends_instead_of_waiting(shared: str, works: bool, python: str) -> None:
    """Another program may fill it at any time. torch alone would wait for ever."""
    there = os.environ | {"PYTHONPATH": f"{ROOT}/src", "OMP_NUM_THREADS": "1"}
    give_room(python, shared)
    ended = subprocess.run(
        [python, "-c", _WORKERS], env=there, capture_output=True, text=True, check=False, timeout=120
    )
    if works:
        assert (ended.returncode, ended.stdout) == (0, "4\n")
        return
    assert ended.returncode == 1
    assert ended.stderr == (
        "data-loader worker: found that it had no room in /dev/shm for what it has made, expected it to live and to "
        "deliver as long as the records last\n  fix: make room\n"
    )
