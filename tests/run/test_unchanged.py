"""A run that changed nothing says so: before it starts where its flags tell, else at its end, and saves nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from minicpmv.training.run import main
from tests.run.training import flags, make_data, read_run

_ALONE = ("--use_lora", "--lora_r", "4", "--lora_modules_to_save", "none")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("--max_steps 0", "--max_steps: found 0, so no optimizer step"),
        (
            "--max_steps 1 --warmup_steps 1",
            "--warmup_steps: found 1 step of warmup (--warmup_steps 1) in a run of 1",
        ),
        (
            "--max_steps 1 --warmup_steps 5 --lr_scheduler_type linear",
            "--warmup_steps: found 5 steps of warmup (--warmup_steps 5)",
        ),
        ("--max_steps 1 --warmup_steps 1 --dry_run true", "--warmup_steps: found 1 step of warmup"),
        ("--learning_rate 0", "--learning_rate: found 0 for everything that learns"),
    ],
)
def test_flags_that_leave_no_update_are_refused_before_the_first_step(
    given: str, told: str, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(flags(data, tmp_path, *_ALONE, *given.split())) == 2
    error = capsys.readouterr().err
    assert f"error: {told}" in error
    assert "nothing would be trained\n  fix: " in error
    assert not (tmp_path / "run.json").exists()


@pytest.mark.parametrize(
    "given",
    [
        "--warmup_steps 0.03 --max_steps 1",
        "--warmup_steps 0.03 --max_steps 2",
        "--lr_scheduler_type constant_with_warmup --warmup_steps 1 --max_steps 2",
    ],
)
def test_shortened_warmup_and_the_second_step_of_one_are_updates(given: str, data: str, tmp_path: Path) -> None:
    assert main(flags(data, tmp_path, *_ALONE, *given.split())) == 0
    assert read_run(tmp_path)["status"] == "finished"


@pytest.mark.parametrize(
    "given", [(*_ALONE, "--lora_alpha", "0", "--weight_decay", "0.1"), ("--learning_rate", "1e-30")]
)
def test_run_without_effect_saves_nothing_and_has_its_own_status(
    given: tuple[str, ...], data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(flags(data, tmp_path, *given, "--save_strategy", "no")) == 2
    told = capsys.readouterr()
    assert "error: Nothing was trained: after 4 steps found all trained weights (" in told.err
    assert "Saved" not in told.out
    assert {path.name for path in tmp_path.iterdir()} == {"log.jsonl", "run.json", "run.yaml"}
    assert read_run(tmp_path)["status"] == "unchanged"


def test_part_that_has_learnt_nothing_is_named(data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(flags(data, tmp_path, "--use_lora", "--lora_r", "4", "--lora_alpha", "0", steps=2)) == 0
    told = capsys.readouterr().out
    assert "notice: language model (LoRA): unchanged after 2 steps" in told
    assert told.count(": unchanged after") == 1
    assert read_run(tmp_path)["status"] == "finished"
