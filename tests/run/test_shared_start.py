"""Processes that each check and count a part of the data start as one does, and fail with one message."""

from __future__ import annotations

import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from minicpmv.training.run import main
from tests.precision import bound
from tests.run.forked import run_command
from tests.run.training import flags, losses, make_data, read_run, run_here
from tests.tiny import conversation, write_data

# Measured: 5e-7 on losses around 6.8, of four processes with one record against one with four.
_LOSS = bound(fp32=5e-6, bf16=2e-2)
_KEPT_OUT = ["--eval_samples", "0", "--save_strategy", "no", "--validation_split", "3"]


def test_four_processes_start_and_train_as_one_does(tmp_path: Path) -> None:
    """Twice, the second time from the first one's cache: held out, counted and planned are the same records."""
    data = make_data(tmp_path, num_records=13)
    alone = run_here(flags(data, tmp_path / "alone", *_KEPT_OUT, "--gradient_accumulation_steps", "4"))
    for name in ("first", "second"):
        arguments = flags(data, tmp_path / name, *_KEPT_OUT, "--data_cache", str(tmp_path / "kept"))
        done = run_command(arguments, processes=4)
        assert done.returncode == 0, done.stderr
        assert ("data: 13 records as checked before" in done.stdout) is (name == "second")
        run = read_run(tmp_path / name)
        assert losses(run) == pytest.approx(losses(alone), abs=_LOSS)
        assert [run[key] for key in ("plan", "data")] == [alone[key] for key in ("plan", "data")]
        assert _fingerprint(run) == _fingerprint(alone)


def _fingerprint(run: dict[str, Any]) -> Any:
    return {key: run[key] for key in run if "split" in key or "length" in key}


@pytest.mark.long
def test_a_plan_that_processes_share_is_trained_as_one_that_each_makes(tmp_path: Path) -> None:
    """Over two epochs, and resumed in the middle of the second; memory is predicted for the longest row of any."""
    data = make_data(tmp_path, num_records=13)
    packed = ["--packing", "true", "--train_sampling_strategy", "random", "--validation_split", "0"]
    packed += ["--activation_checkpointing", "auto"]
    predicted = set()
    runs = {"alone": ["--save_strategy", "no"], "shared": ["--save_steps", "5"]}
    for how, saved in runs.items():
        arguments = flags(data, tmp_path / how, *packed, *saved, "--model_max_length", "300", steps=7)
        done = run_command([how, *arguments], module="tests.run.small_blocks", processes=2)
        assert done.returncode == 0, done.stderr
        predicted |= set(re.findall(r"^recomputed: .+; a step needs .+? of ", done.stdout, re.MULTILINE))
    assert len(predicted) == 1, predicted
    alone, shared = (read_run(tmp_path / how) for how in runs)
    assert alone["plan"]["steps_per_epoch"] < 5, "the checkpoint is in the second epoch"
    assert losses(shared) == losses(alone)
    shutil.rmtree(tmp_path / "shared" / "checkpoint-7", ignore_errors=True)
    again = flags(data, tmp_path / "shared", *packed, *runs["shared"], "--model_max_length", "300", steps=7)
    done = run_command(
        ["shared", *again, "--resume_from_checkpoint", "true"], module="tests.run.small_blocks", processes=2
    )
    assert done.returncode == 0, done.stderr
    assert losses(read_run(tmp_path / "shared"))[-2:] == losses(alone)[-2:]


def test_faults_in_all_parts_are_one_report_of_the_first_process(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records: list[dict[str, Any]] = [
        {"id": str(index), "conversations": conversation("Why?", "So." * index)} for index in range(8)
    ]
    records[1]["image"] = records[7]["image"] = "missing.png"  # a part of the first, and of the last process
    records[6]["conversations"] = []
    data = write_data(tmp_path / "train.json", records)
    assert main(flags(data, tmp_path / "alone")) == 2
    alone = capsys.readouterr().err
    done = run_command(flags(data, tmp_path / "four"), processes=4)
    assert done.returncode == 2
    assert done.stderr == alone
    assert "1 more use of this file" in alone
    assert "record 6 (id '6')" in alone


@pytest.mark.parametrize("how", ["killed", "broken"])
def test_a_process_that_fails_while_data_are_checked_ends_the_run(tmp_path: Path, how: str) -> None:
    data = make_data(tmp_path, num_records=8)
    arguments = [how, *flags(data, tmp_path / "run", "--validation_split", "0")]
    done = run_command(arguments, module="tests.run.faulty_rank", processes=4)
    if how == "killed":
        assert done.returncode == -signal.SIGKILL
    else:
        assert done.returncode == 1
        assert "RuntimeError: the last process cannot go on" in done.stderr
    assert done.stderr.count("Traceback") == (how == "broken"), done.stderr
