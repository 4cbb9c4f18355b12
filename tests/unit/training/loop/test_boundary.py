from __future__ import annotations

import math
import signal
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import TrainerControl, TrainerState

from minicpmv.errors import NotFiniteError
from minicpmv.training.loop.boundary import MOST_SKIPPED, StepBoundary, Stopped, misses_evaluation
from minicpmv.training.loop.interruption import Interruption


def make_args(**fields: Any) -> Any:
    defaults = {"device": torch.device("cpu"), "fp16": False, "save_only_model": False}
    defaults |= {"output_dir": None, "learning_rate": 1e-3, "warmup_steps": 0.03}
    return SimpleNamespace(**defaults | fields)


def make_boundary(interruption: Interruption | None = None, *, skipped: bool = False) -> StepBoundary:
    return StepBoundary(
        interruption, describe=lambda n: f"record {n}", was_skipped=lambda: skipped, make_up=lambda: None
    )


def end_step(boundary: StepBoundary, losses: list[float], *, gradient: float = 1.0, args: Any = None) -> TrainerControl:
    """A step of one batch of two records for each loss."""
    for number, loss in enumerate(losses):
        boundary.note_loss(torch.tensor(loss), [2 * number, 2 * number + 1])
    boundary.note_gradient(gradient)
    control = TrainerControl(should_evaluate=True)
    state = TrainerState(global_step=7, max_steps=10)
    boundary.on_step_end(args or make_args(), state, control)
    return control


def test_finite_step_changes_nothing() -> None:
    assert end_step(make_boundary(), [1.0, 2.0]) == TrainerControl(should_evaluate=True)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_loss_that_is_no_number_names_the_records_of_its_batch_alone(loss: float) -> None:
    with pytest.raises(NotFiniteError) as told:
        end_step(make_boundary(), [1.0, loss, 1.0], gradient=math.nan)
    assert str(told.value).startswith(f"step 7 of 10: found a loss of {loss}, expected a finite number")
    assert "  record 2\n  record 3\n  fix:" in str(told.value)
    assert "record 1" not in str(told.value)


def test_gradient_that_is_no_number_names_all_records_of_the_step() -> None:
    with pytest.raises(NotFiniteError) as told:
        end_step(make_boundary(), [1.0, 2.0], gradient=math.inf)
    assert "found a gradient of norm inf with finite losses" in str(told.value)
    assert all(f"record {number}\n" in str(told.value) for number in range(4))


def test_long_batches_are_cut_in_the_message() -> None:
    boundary = make_boundary()
    boundary.note_loss(torch.tensor(math.nan), list(range(100)))
    with pytest.raises(NotFiniteError, match=r"record 19\n  \.\.\. and 80 more"):
        boundary.on_step_end(make_args(), TrainerState(), TrainerControl())


def test_overflow_that_float16_scaling_skips_is_no_failure() -> None:
    boundary = make_boundary(skipped=True)
    for _ in range(MOST_SKIPPED):
        end_step(boundary, [1.0], gradient=math.inf, args=make_args(fp16=True))
    with pytest.raises(NotFiniteError):
        end_step(boundary, [1.0], gradient=math.inf, args=make_args(fp16=True))


def test_skipped_step_counts_anew_after_one_that_worked() -> None:
    boundary = make_boundary(skipped=True)
    for _ in range(3):
        for _ in range(MOST_SKIPPED):
            end_step(boundary, [1.0], gradient=math.inf, args=make_args(fp16=True))
        end_step(boundary, [1.0], args=make_args(fp16=True))


def test_loss_that_is_no_number_fails_in_float16_too() -> None:
    with pytest.raises(NotFiniteError):
        end_step(make_boundary(skipped=True), [math.nan], gradient=math.nan, args=make_args(fp16=True))


def test_signal_saves_a_resumable_checkpoint_without_evaluating_and_then_stops() -> None:
    interruption = Interruption()
    interruption.requested = signal.SIGTERM
    boundary, args = make_boundary(interruption), make_args(save_only_model=True)
    control = end_step(boundary, [1.0], args=args)
    assert (control.should_save, control.should_log, control.should_evaluate) == (True, True, False)
    assert boundary.is_stopping, "the trainer then saves the optimizer as well"
    with pytest.raises(Stopped) as stopped:
        boundary.on_save(args, TrainerState(), control)
    assert stopped.value.signal_number == signal.SIGTERM


def test_signal_while_saving_stops_without_another_step() -> None:
    interruption = Interruption()
    boundary = make_boundary(interruption)
    end_step(boundary, [1.0])
    boundary.on_save(make_args(), TrainerState(), TrainerControl())
    interruption.requested = signal.SIGTERM
    with pytest.raises(Stopped):
        boundary.on_save(make_args(), TrainerState(), TrainerControl())


@pytest.mark.parametrize(
    ("strategy", "step", "epoch", "log", "misses"),
    [
        ("steps", 4, 0.4, [], True),
        ("steps", 4, 0.4, [{"eval_loss": 1.0, "step": 2}], True),
        ("steps", 4, 0.4, [{"eval_loss": 1.0, "step": 4}], False),
        ("steps", 3, 0.3, [], False),
        ("steps", 0, 0, [], False),
        ("epoch", 10, 1.0, [], True),
        ("epoch", 4, 0.4, [], False),
        ("no", 4, 1.0, [], False),
    ],
)
def test_evaluation_is_missed_where_it_was_due_and_is_not_in_the_log(
    strategy: str, step: int, epoch: float, log: list[Any], misses: bool
) -> None:
    args: Any = SimpleNamespace(eval_strategy=strategy, eval_delay=0)
    state = TrainerState(global_step=step, epoch=epoch, eval_steps=2, log_history=log)
    assert misses_evaluation(args, state) == misses
