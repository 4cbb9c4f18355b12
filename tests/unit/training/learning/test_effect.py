"""Flags that let a run learn hardly anything are named before its first step."""

from __future__ import annotations

from pathlib import Path

import pytest

from minicpmv.errors import UsageError
from minicpmv.releases.row import Parts
from minicpmv.training.flags.arguments import parse_arguments
from minicpmv.training.flags.resolution import build_training_arguments, resolve_settings
from minicpmv.training.learning.effect import describe_little_effect, refuse_no_effect, shorten_warmup
from minicpmv.training.learning.rates import Rates
from tests.machines import CPU

NEEDED = ["--model_name_or_path", "m", "--data_path", "d.json", "--use_lora", "true", "--report_to", "none"]
PART = "llm.model.layers.0.self_attn.q_proj.lora_B.default.weight"


def describe(given: str, num_steps: int, folder: Path) -> list[str]:
    request = parse_arguments([*NEEDED, "--output_dir", str(folder), *given.split()])
    args = build_training_arguments(resolve_settings(request, CPU).training)
    args, shortened = shorten_warmup(args, num_steps=num_steps)
    rates = Rates.of_run(request.run, Parts(), learning_rate=args.learning_rate, weight_decay=args.weight_decay)
    refuse_no_effect(args, rates, [PART], num_steps=num_steps)
    return shortened + describe_little_effect(args, rates, [PART], num_steps=num_steps)


@pytest.mark.parametrize(
    ("given", "notice"),
    [
        ("--max_grad_norm 1e-30", "--max_grad_norm 1e-30: no weight moves by more than about 4e-26 in all 4 steps of"),
        ("--max_grad_norm 1e-5 --adam_epsilon 1e5", "--max_grad_norm 1e-05: no weight moves by more than about 4e-14"),
        ("--max_grad_norm 1e-9 --optim sgd", "--max_grad_norm 1e-09: no weight moves"),
        ("--learning_rate 1e-30", "--learning_rate 1e-30: no weight moves by more than about 4e-30 in all 4 steps,"),
        ("--learning_rate 1e-4 --lora_lr 1e-30", "--learning_rate 1e-30: no weight moves"),
        ("--warmup_steps 100", "--warmup_steps 100: the warmup of 100 steps is no shorter than the run of 4, so that "),
        ("--warmup_steps 4 --lr_scheduler_type linear", "--warmup_steps 4: the warmup of 4 steps is no shorter than"),
    ],
)
def test_flag_that_leaves_little_to_learn_is_named(given: str, notice: str, tmp_path: Path) -> None:
    (found,) = describe(given, 4, tmp_path)
    assert found.startswith(notice)


@pytest.mark.parametrize("flag", ["num_train_epochs", "max_steps"])
def test_more_steps_than_anybody_waits_for_are_refused_with_their_number(flag: str, tmp_path: Path) -> None:
    describe("--num_train_epochs 1000", 100_000_000, tmp_path)
    said = (
        rf"^--{flag}: found (1e.09|1000000000), which makes 1,000,000,000 optimizer steps, expected at most 100,000,000"
    )
    with pytest.raises(UsageError, match=said):
        describe(f"--{flag} 1000000000", 1_000_000_000, tmp_path)


def test_part_of_the_rate_that_is_reached_is_said(tmp_path: Path) -> None:
    assert "gets to 0.03 of what was asked" in describe("--warmup_steps 100", 4, tmp_path)[0]


@pytest.mark.parametrize(
    "given",
    [
        "",
        "--max_grad_norm 0",
        "--max_grad_norm 1e-3",
        "--max_grad_norm 1e-30 --optim adafactor",
        "--learning_rate 1e-7",
        "--warmup_steps 3",
        "--warmup_steps 100 --lr_scheduler_type constant",
        "--warmup_steps 100 --lr_scheduler_type reduce_lr_on_plateau --eval_data_path e.json --eval_strategy steps",
    ],
)
def test_flags_that_can_be_meant_get_no_notice(given: str, tmp_path: Path) -> None:
    assert describe(given, 4, tmp_path) == []


@pytest.mark.parametrize(
    ("given", "num_steps", "said"),
    [
        ("", 1, "--warmup_steps 0.01: 1 step of warmup would be all of the run, so the warmup has 0 steps"),
        ("--warmup_steps 0.05", 1, "--warmup_steps 0.05: 1 step of warmup would be all of the run, so the warmup"),
        ("--warmup_steps 0.9 --lr_scheduler_type linear", 4, "--warmup_steps 0.9: 4 steps of warmup"),
    ],
)
def test_share_that_is_rounded_up_to_the_whole_run_leaves_its_last_step_the_whole_rate(
    given: str, num_steps: int, said: str, tmp_path: Path
) -> None:
    (found,) = describe(given, num_steps, tmp_path)
    assert found.startswith(said)


def test_number_of_steps_that_was_asked_for_is_not_shortened(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^--warmup_steps: found 1 step of warmup \(--warmup_steps 1\) in a run of 1"):
        describe("--warmup_steps 1", 1, tmp_path)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant_with_warmup", "inverse_sqrt", "polynomial"])
def test_run_of_one_step_has_a_rate_by_each_schedule_of_the_recipe(schedule: str, tmp_path: Path) -> None:
    assert len(describe(f"--lr_scheduler_type {schedule}", 1, tmp_path)) == 1
