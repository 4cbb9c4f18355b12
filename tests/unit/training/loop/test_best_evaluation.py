from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerState, TrainingArguments

from minicpmv.training.loop.best_evaluation import Best, find_best, follow_metric

LOG: list[dict[str, Any]] = [
    {"step": 0, "eval_loss": 0.1, "eval_cer": 0.0},  # before training
    {"step": 2, "eval_loss": 3.0, "eval_cer": 0.5},
    {"step": 3, "loss": 1.0},
    {"step": 4, "eval_loss": 2.0, "eval_cer": 0.9},
    {"step": 6, "eval_loss": math.nan, "eval_cer": 0.5},
    {"step": 8, "eval_loss": 2.0, "eval_cer": 0.7},
]


def test_best_is_the_first_of_equal_ones_after_a_step_and_a_number() -> None:
    assert find_best(LOG, "loss", is_greater_better=False) == Best(2.0, 4, 2)
    assert find_best(LOG, "eval_cer", is_greater_better=True, steps=[2, 8]) == Best(0.7, 8, 0)
    assert find_best(LOG, "anls", is_greater_better=True) is None


def args_of(output: Path, metric: str, **more: Any) -> TrainingArguments:
    return TrainingArguments(str(output), metric_for_best_model=metric, report_to="none", use_cpu=True, **more)


def state_by_loss(output: Path) -> TrainerState:
    for step in (2, 8):  # that of step 4 has been deleted
        (output / f"checkpoint-{step}").mkdir()
    best = str(output / "checkpoint-4")
    return TrainerState(log_history=LOG, best_metric=2.0, best_global_step=4, best_model_checkpoint=best)


def test_same_metric_changes_nothing_even_without_its_checkpoint(tmp_path: Path) -> None:
    state = state_by_loss(tmp_path)
    args = args_of(tmp_path, "loss", load_best_model_at_end=True, eval_strategy="epoch", save_strategy="epoch")
    assert follow_metric(state, args) is None
    assert (state.best_metric, state.best_global_step) == (2.0, 4)


@pytest.mark.parametrize(
    ("metric", "greater", "keeps_best", "value", "step", "since"),
    [
        ("cer", False, True, 0.5, 2, 3),
        ("cer", True, True, 0.7, 8, 0),  # the checkpoint of the best one is gone
        ("cer", True, False, 0.9, 4, 2),
        ("loss", True, True, 3.0, 2, 3),  # the same numbers, judged the other way round
    ],
)
def test_other_metric_is_followed_from_the_beginning(
    metric: str, greater: bool, keeps_best: bool, value: float, step: int, since: int, tmp_path: Path
) -> None:
    state = state_by_loss(tmp_path)
    more = {"load_best_model_at_end": keeps_best, "eval_strategy": "epoch", "save_strategy": "epoch"}
    assert follow_metric(state, args_of(tmp_path, metric, greater_is_better=greater, **more)) == since
    assert (state.best_metric, state.best_global_step) == (value, step)
    saved = str(tmp_path / f"checkpoint-{step}") if step != 4 else None
    assert state.best_model_checkpoint == saved


def test_first_metric_of_a_run_that_compared_none_is_followed_from_the_beginning(tmp_path: Path) -> None:
    state = state_by_loss(tmp_path)
    state.best_metric = state.best_global_step = state.best_model_checkpoint = None
    assert follow_metric(state, args_of(tmp_path, "loss", greater_is_better=False)) == 2
    assert (state.best_metric, state.best_global_step) == (2.0, 4)
    assert follow_metric(TrainerState(), args_of(tmp_path, "loss")) is None, "a new run has no log"


def test_metric_that_was_never_measured_begins_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = state_by_loss(tmp_path)
    assert follow_metric(state, args_of(tmp_path, "anls", greater_is_better=True)) == 0
    assert (state.best_metric, state.best_global_step, state.best_model_checkpoint) == (None, None, None)
    assert (
        "the earlier run did not compare by anls (--metric_for_best_model); the best by it: none"
        in capsys.readouterr().out
    )
