"""Packed runs by the command line: the same training as unpacked ones, every record once, and resumed exactly."""

from __future__ import annotations

import itertools
import shutil
import subprocess
from pathlib import Path

import pytest

from minicpmv.training.run import main
from tests.run.training import (
    command,
    environment,
    flags,
    losses,
    make_data,
    read_run,
    run_command,
    run_here,
    same_bytes,
)

# Measured: 1e-6 on losses around 5 after four steps of Adam at 1e-3.
_LOSS = 5e-6
_NUM_RECORDS = 8
_WEIGHTS = "model.safetensors"
_PACKED = ["--packing", "true", "--model_max_length", "384"]
# Rows of one or two records, five in an epoch or six with two processes.
_SHORT = ["--packing", "true", "--model_max_length", "110", "--train_sampling_strategy", "random"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_data(tmp_path_factory.mktemp("data"), num_records=_NUM_RECORDS)


@pytest.fixture(scope="module")
def unpacked(data: str, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """Losses of steps that each take all eight records."""
    extra = ["--gradient_accumulation_steps", str(_NUM_RECORDS)]
    return losses(run_here(flags(data, tmp_path_factory.mktemp("unpacked"), *extra)))


def test_one_row_is_its_records_accumulated(data: str, unpacked: list[float], tmp_path: Path) -> None:
    run = run_here(flags(data, tmp_path, *_PACKED, "--per_device_train_batch_size", "2"))
    assert losses(run) == pytest.approx(unpacked, abs=_LOSS)


def test_two_rows_accumulated_are_one(data: str, unpacked: list[float], tmp_path: Path) -> None:
    run = run_here(flags(data, tmp_path, *_PACKED, "--gradient_accumulation_steps", "2"))
    assert losses(run) == pytest.approx(unpacked, abs=_LOSS)


def test_a_row_in_each_of_two_processes_is_one(data: str, unpacked: list[float], tmp_path: Path) -> None:
    done = run_command(flags(data, tmp_path, *_PACKED, "--deepspeed", "zero2"), processes=2)
    assert done.returncode == 0, done.stderr
    assert losses(read_run(tmp_path)) == pytest.approx(unpacked, abs=_LOSS)


def test_what_the_run_says_is_what_it_does(data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_here([*flags(data, tmp_path, *_SHORT, "--num_train_epochs", "3", steps=-1)])
    told = capsys.readouterr().out
    assert "1 packed row per step" in told
    assert "an epoch has 5 rows, 5 steps of about 1.6 records" in told
    assert len(losses(run)) == 15


@pytest.mark.parametrize(
    "batches", [_SHORT, ["--train_sampling_strategy", "group_by_length", "--per_device_train_batch_size", "2"]]
)
def test_resumed_within_a_later_epoch_is_uninterrupted(batches: list[str], data: str, tmp_path: Path) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    extra = [*batches, "--use_lora", "--lora_dropout", "0.3", "--save_steps", "6", "--dataloader_num_workers", "1"]
    expected = run_here(flags(data, whole, *extra, steps=12))
    shutil.copytree(whole / "checkpoint-6", stopped / "checkpoint-6")
    found = run_here(flags(data, stopped, *extra, "--resume_from_checkpoint", "true", steps=12))
    assert losses(found)[-6:] == losses(expected)[-6:]
    assert same_bytes(stopped / "adapter_model.safetensors", whole / "adapter_model.safetensors")


def _run_recorded(arguments: list[str], notes: Path) -> list[list[int]]:
    """Train in two processes; return the records that each has read."""
    notes.mkdir()
    words = [word.replace("minicpmv.training", "tests.run.recorded") for word in command(arguments, processes=2)]
    variables = environment() | {"RECORDED": str(notes)}
    done = subprocess.run(words, env=variables, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return [[int(line) for line in (notes / f"rank-{rank}").read_text().split()] for rank in range(2)]


def test_two_processes_read_every_record_once_in_an_epoch_and_a_resumed_run_the_rest(data: str, tmp_path: Path) -> None:
    """Six rows make three steps of an epoch; the run goes on after the first step of the second."""
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    extra = [*_SHORT, "--save_steps", "4"]
    read = _run_recorded(flags(data, whole, *extra, steps=6), tmp_path / "notes")
    assert sorted(itertools.chain.from_iterable(read)) == sorted([*range(_NUM_RECORDS)] * 2)
    shutil.copytree(whole / "checkpoint-4", stopped / "checkpoint-4")
    arguments = flags(data, stopped, *extra, "--resume_from_checkpoint", "true", steps=6)
    rest = _run_recorded(arguments, tmp_path / "notes of the rest")
    assert [records[-len(left) :] for records, left in zip(read, rest, strict=True)] == rest
    assert losses(read_run(stopped))[-2:] == losses(read_run(whole))[-2:]
    assert same_bytes(stopped / _WEIGHTS, whole / _WEIGHTS)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("--pack_length 4096", "--pack_length: found without --packing true"),
        ("--packing true --pack_length 1024", "found 1024, expected at least the 2048 tokens that one record may have"),
        ("--packing true --train_sampling_strategy group_by_length", "two answers to which records share a batch"),
        ("--packing true --auto_find_batch_size true", "shorter rows"),
        ("--packing true --dataloader_drop_last true", "no row is dropped"),
    ],
)
def test_what_does_not_go_with_packing_is_refused(
    extra: str, message: str, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(flags(data, tmp_path, *extra.split())) == 2
    assert message in capsys.readouterr().err
