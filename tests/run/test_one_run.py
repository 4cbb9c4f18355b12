"""A directory is trained in by one run at a time."""

from __future__ import annotations

import os
import signal
import time
from multiprocessing.connection import wait
from pathlib import Path

import pytest

from minicpmv.files.checkpoint_folders import list_checkpoints
from minicpmv.report.holder import LOCK
from minicpmv.training.checkpoints.manifest import find_fault
from tests.run.forked import exit_code, run_command, start
from tests.run.training import flags, make_data, read_run

_LONG = ["--use_lora", "--lora_r", "4", "--save_steps", "1"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_data(tmp_path_factory.mktemp("data"), num_records=2)


def test_of_two_runs_at_once_one_trains_and_the_other_is_told(data: str, tmp_path: Path) -> None:
    output, logs = tmp_path / "output", [tmp_path / "first", tmp_path / "second"]
    arguments = [*flags(data, output, *_LONG, steps=1000), "--save_total_limit", "2"]
    both = [start([*arguments, "--seed", str(seed)], log=log) for seed, log in enumerate(logs)]
    try:
        assert wait([process.sentinel for process in both], timeout=90), "both train"
        winner = next(number for number, process in enumerate(both) if process.exitcode is None)
        while not list_checkpoints(output):
            assert both[winner].exitcode is None, logs[winner].read_text()
            time.sleep(0.05)
    finally:
        for process in both:
            process.terminate()
    assert [exit_code(both[winner]), exit_code(both[1 - winner])] == [143, 2]
    refused = logs[1 - winner].read_text()
    assert "error: --output_dir: found a run that began at" in refused
    assert "Traceback" not in refused
    assert read_run(output)["seed"] == winner
    assert all(find_fault(path, check_content=True) is None for path in list_checkpoints(output))
    assert not (output / LOCK).exists()


def test_resume_beside_a_living_run_touches_nothing(data: str, tmp_path: Path) -> None:
    output, log = tmp_path / "output", tmp_path / "log"
    arguments = [*flags(data, output, *_LONG, steps=1000), "--save_total_limit", "2"]
    first = start(arguments, log=log)
    assert first.pid is not None
    try:
        while not list_checkpoints(output):
            assert first.exitcode is None, log.read_text()
            time.sleep(0.05)
        os.kill(first.pid, signal.SIGSTOP)
        before = sorted(str(path) for path in output.rglob("*"))
        for word in ("--resume_from_checkpoint", "--dry_run"):
            second = run_command([*arguments, word, "true"])
            assert second.returncode == 2, second.stderr
            assert f"(process {first.pid} on " in second.stderr
        assert sorted(str(path) for path in output.rglob("*")) == before
    finally:
        os.kill(first.pid, signal.SIGCONT)
        first.terminate()
    assert exit_code(first) == 143, log.read_text()
    assert not (output / LOCK).exists(), "a run that a signal ends says that it has ended"
