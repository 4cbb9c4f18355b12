"""The command for the first minutes on a GPU, as far as a CPU can run it: no number is lost, whatever fails."""

from __future__ import annotations

import shutil
import signal
import time
from pathlib import Path

import psutil
import pytest
import torch

from benchmarks.gpu.stages import STAGES
from tests.benchmarks.gpu_command import ROOT, of_stage, read, run, start

_WAYS = 4


@pytest.fixture
def broken_checkout(tmp_path: Path) -> Path:
    """A checkout of which one tiny release cannot be loaded."""
    for name in ("benchmarks", "tests/released_sizes.py", "tests/__init__.py", "tests/fixtures"):
        target = tmp_path / "checkout" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, target)
    weights = tmp_path / "checkout" / "tests/fixtures/v2_5/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    return tmp_path / "checkout"


@pytest.mark.long
def test_a_case_that_fails_is_a_line_and_the_next_cases_and_stages_run(broken_checkout: Path, tmp_path: Path) -> None:
    code, printed = run(tmp_path / "gpu.jsonl", "--only", "facts,fixtures,estimate", root=broken_checkout)
    lines = read(tmp_path / "gpu.jsonl")
    assert code == 1, printed
    failed = [line for line in lines if "failed" in line]
    assert [(line["stage"], line["case"]) for line in failed] == [("fixtures", "v2_5")], printed
    assert 1 <= len(failed[0]["last_lines"]) <= 20
    assert "model.safetensors" in failed[0]["failed"]
    assert "fixtures/v2_5: FAILED" in printed
    assert "failed: 1: fixtures/v2_5" in printed

    others = [line for line in of_stage(lines, "fixtures") if line["case"] != "v2_5"]
    assert len(others) == 4 * 3 * 2, "releases, precisions, padded and packed"
    assert all(line["holds"] for line in others), printed
    assert len({line["loss"] for line in others}) > 4, "measured, not repeated"

    (next_stage,) = of_stage(lines, "estimate")
    assert "real_size has written nothing into this file" in next_stage["left_out"]
    for line in lines:
        assert line["date"].startswith("20")
        assert line["device"] not in ("", "unknown")
        assert {"driver", "versions", "at_seconds", "sizes"} <= line.keys()
        assert {"torch", "transformers", "peft", "accelerate", "deepspeed"} <= line["versions"].keys()


@pytest.mark.long
def test_killed_worker_costs_its_case_and_killed_command_costs_no_line(tmp_path: Path) -> None:
    output = tmp_path / "gpu.jsonl"
    with start(output, "--only", "kernels") as process:
        _wait_for_lines(output, 2)
        (worker,) = psutil.Process(process.pid).children()
        worker.kill()
        _wait_for_lines(output, 5)
        (second,) = psutil.Process(process.pid).children()
        assert second.pid != worker.pid
        process.send_signal(signal.SIGKILL)
    psutil.wait_procs([second], timeout=30)
    assert not second.is_running()

    written = output.read_text(encoding="utf-8")
    lines = read(output)
    assert len(lines) == len(written.splitlines()) >= 5, "every line is whole"
    (failed,) = [line for line in lines if "failed" in line]
    names = [line["case"] for line in lines if line is not failed]
    assert len(set(names)) == len(names), "each case once"
    before = lines.index(failed)
    assert failed["case"] not in [*names[: before - 1], *names[before:]], "the one at work, or that had just ended"
    assert failed["failed"] == "its process ended"
    assert failed["last_lines"][-1] == "exit code -9"


def test_a_stage_that_no_longer_fits_is_named(tmp_path: Path) -> None:
    code, printed = run(tmp_path / "gpu.jsonl", "--minutes", "0.01")
    lines = read(tmp_path / "gpu.jsonl")
    assert [line["stage"] for line in lines] == list(STAGES)
    assert all("0 s are left" in line["left_out"] or "1 s are left" in line["left_out"] for line in lines)
    assert code == 0, printed


def test_an_unknown_stage_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    code, printed = run(tmp_path / "gpu.jsonl", "--only", "facts,kernel")
    assert code == 2
    assert "found 'kernel', expected some of facts, kernels, " in printed


@pytest.mark.slow
def test_nothing_that_was_started_outlives_a_killed_command(tmp_path: Path) -> None:
    with start(tmp_path / "gpu.jsonl", "--only", "tests") as process:
        until = time.monotonic() + 120
        while len(started := psutil.Process(process.pid).children(recursive=True)) < 2:  # pytest, below the worker
            assert time.monotonic() < until
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    assert psutil.wait_procs(started, timeout=2)[1] == []


@pytest.mark.slow
def test_without_a_gpu_the_command_says_so(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    code, printed = run(tmp_path / "gpu.jsonl", "--only", "facts", small=False)
    assert code == 2
    assert "found no GPU that it can use" in printed
    assert "fix:" in printed


@pytest.mark.slow
def test_every_stage_runs_and_what_it_expects_holds(tmp_path: Path) -> None:
    code, printed = run(tmp_path / "gpu.jsonl", "--traces", str(tmp_path / "traces"))
    lines = read(tmp_path / "gpu.jsonl")
    assert {line["stage"] for line in lines} == set(STAGES), printed
    assert [line for line in lines if "failed" in line or line.get("holds") is False] == [], printed
    assert code == 0
    assert len(list((tmp_path / "traces").glob("*.json.gz"))) == _WAYS
    steps = [line for line in of_stage(lines, "real_size") if "step_seconds" in line]
    assert len(steps) == _WAYS
    assert all(line["step_seconds"] > 0 and line["tokens"] > 100 and line["slices"] == 2 for line in steps)
    assert all(abs(line["loss"] - steps[0]["loss"]) < 0.1 for line in steps), "the same weights and the same row"
    assert sum(line["tokens_per_second"] > 0 for line in lines if line.get("case") == "answers") == 2
    estimated = of_stage(lines, "estimate")
    assert [line["estimated_gib"] > 0 for line in estimated] == [True] * _WAYS


def _wait_for_lines(output: Path, number: int) -> None:
    until = time.monotonic() + 120
    while not output.exists() or len(output.read_text(encoding="utf-8").splitlines()) < number:
        assert time.monotonic() < until
        time.sleep(0.02)
