"""Planned batches by the command line: packed is unpacked training, every record once, and resumed exactly."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import pytest

from tests.precision import bound
from tests.run.forked import run_command
from tests.run.training import flags, losses, make_data, read_run, run_here, same_bytes

# Measured: 1e-6 on losses around 5 after four steps of Adam at 1e-3. In bfloat16 1.6e-3 under autocast, and 2.2e-2
# against DeepSpeed, which rounds all weights themselves.
_LOSS = bound(fp32=5e-6, bf16=6e-2)
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
    assert "each step: 1 packed row of up to 110 tokens" in told
    assert "about 1.6 records" in told
    assert "an epoch has 5 steps" in told
    assert len(losses(run)) == 15


@pytest.mark.long
@pytest.mark.parametrize(
    "batches",
    [
        _SHORT,
        *(
            pytest.param(
                ["--train_sampling_strategy", strategy, "--per_device_train_batch_size", size], marks=pytest.mark.slow
            )
            for strategy, size in (("group_by_length", "2"), ("random", "3"))
        ),
    ],
)
def test_resumed_within_a_later_epoch_is_uninterrupted(batches: list[str], data: str, tmp_path: Path) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    extra = [*batches, "--use_lora", "--lora_dropout", "0.3", "--save_steps", "6", "--dataloader_num_workers", "1"]
    expected = run_here(flags(data, whole, *extra, steps=12))
    shutil.copytree(whole / "checkpoint-6", stopped / "checkpoint-6")
    found = run_here(flags(data, stopped, *extra, "--resume_from_checkpoint", "true", steps=12))
    assert losses(found)[-6:] == losses(expected)[-6:]
    assert same_bytes(stopped / "adapter_model.safetensors", whole / "adapter_model.safetensors")


def _run_recorded(arguments: list[str], notes: Path, *, processes: int = 2) -> list[list[int]]:
    """Train in several processes; return the records that each has read."""
    notes.mkdir()
    variables = {"RECORDED": str(notes)}
    done = run_command(arguments, processes=processes, module="tests.run.recorded", variables=variables)
    assert done.returncode == 0, done.stderr
    return [[int(line) for line in (notes / f"rank-{rank}").read_text().split()] for rank in range(processes)]


@pytest.mark.long
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


@pytest.fixture(scope="module")
def three(data: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[list[int]]]:
    """Two epochs without packing in three processes: eight records, so that the last process has none in the end."""
    output = tmp_path_factory.mktemp("three")
    arguments = flags(data, output, "--save_steps", "4", "--dataloader_num_workers", "1", steps=6)
    return output, _run_recorded(arguments, output / "notes", processes=3)


@pytest.mark.slow
def test_unpacked_too_three_processes_read_every_record_once_in_an_epoch(
    three: tuple[Path, list[list[int]]],
) -> None:
    assert three[1] == [[0, 3, 6] * 2, [1, 4, 7] * 2, [2, 5] * 2]


@pytest.mark.long
def test_a_process_without_a_record_changes_no_loss(
    three: tuple[Path, list[list[int]]], data: str, tmp_path: Path
) -> None:
    """One process takes the same eight records one after the other: three, three and two in a step."""
    alone = run_here(flags(data, tmp_path, "--gradient_accumulation_steps", "3", steps=6))
    assert losses(read_run(three[0])) == pytest.approx(losses(alone), abs=_LOSS)


@pytest.mark.slow
def test_unpacked_too_three_processes_resume_with_exactly_the_rest(
    three: tuple[Path, list[list[int]]], data: str, tmp_path: Path
) -> None:
    whole, _ = three
    shutil.copytree(whole / "checkpoint-4", tmp_path / "checkpoint-4")
    arguments = flags(data, tmp_path, "--resume_from_checkpoint", "true", "--save_steps", "4", steps=6)
    assert _run_recorded(arguments, tmp_path / "notes", processes=3) == [[3, 6], [4, 7], [5]]
    assert losses(read_run(tmp_path))[-2:] == pytest.approx(losses(read_run(whole))[-2:], abs=_LOSS)
