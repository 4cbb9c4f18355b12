"""A directory is trained in by one run at a time."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from minicpmv.training.checkpoints import list_checkpoints
from minicpmv.training.lock import LOCK
from minicpmv.training.manifest import find_fault
from tests.run.training import environment, flags, make_data, read_run

_LONG = ["--use_lora", "--lora_r", "4", "--save_steps", "1"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_data(tmp_path_factory.mktemp("data"))


def _start(arguments: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "minicpmv", "train", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())


def test_of_two_runs_at_once_one_trains_and_the_other_is_told(data: str, tmp_path: Path) -> None:
    both = [_start(flags(data, tmp_path, *_LONG, "--seed", str(seed), steps=6)) for seed in (1, 2)]
    ends = [(*process.communicate(timeout=300), process.returncode) for process in both]
    assert sorted(code for _, _, code in ends) == [0, 2]
    winner = next(number for number, (_, _, code) in enumerate(ends) if code == 0)
    refused = ends[1 - winner][1]
    assert "error: --output_dir: found a run that began at" in refused
    assert "Traceback" not in refused
    assert read_run(tmp_path)["seed"] == winner + 1
    assert all(find_fault(path, check_content=True) is None for path in list_checkpoints(tmp_path))
    assert not (tmp_path / LOCK).exists()


def test_resume_beside_a_living_run_touches_nothing(data: str, tmp_path: Path) -> None:
    arguments = [*flags(data, tmp_path, *_LONG, steps=1000), "--save_total_limit", "2"]
    first = _start(arguments)
    try:
        while not list_checkpoints(tmp_path):
            assert first.poll() is None, first.communicate()
            time.sleep(0.05)
        first.send_signal(signal.SIGSTOP)
        before = sorted(str(path) for path in tmp_path.rglob("*"))
        for word in ("--resume_from_checkpoint", "--dry_run"):
            second = _start([*arguments, word, "true"])
            _, told = second.communicate(timeout=300)
            assert second.returncode == 2, told
            assert f"(process {first.pid} on " in told
        assert sorted(str(path) for path in tmp_path.rglob("*")) == before
        first.send_signal(signal.SIGCONT)
    finally:
        first.send_signal(signal.SIGCONT)
        first.terminate()
        out, error = first.communicate(timeout=300)
    assert first.returncode == 143, out + error
    assert not (tmp_path / LOCK).exists(), "a run that a signal ends says that it has ended"
