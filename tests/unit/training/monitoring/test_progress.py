"""Progress without a terminal: a line says how far a run is, how long it took and how long it will take."""

from __future__ import annotations

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from minicpmv.training.monitoring import progress
from minicpmv.training.monitoring.progress import RunProgress


def told(monkeypatch: pytest.MonkeyPatch, logs: dict[str, float], *, first: int, step: int, seconds: float) -> str:
    """Return the line of a step, in a run of 100 steps that began at ``first``, so many seconds ago."""
    clock = iter((1000.0, 1000.0 + seconds))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    lines: list[str] = []
    monkeypatch.setattr(progress, "say", lines.append)
    arguments, control = TrainingArguments(use_cpu=True), TrainerControl()
    shown = RunProgress(bar=False)
    shown.on_train_begin(arguments, TrainerState(global_step=first, max_steps=100), control)
    state = TrainerState(epoch=0.75, global_step=step, max_steps=100, is_world_process_zero=True)
    shown.on_log(arguments, state, control, logs=logs)
    (line,) = lines
    return line


def test_a_step_tells_epoch_and_times(monkeypatch: pytest.MonkeyPatch) -> None:
    line = told(monkeypatch, {"loss": 1.5}, first=0, step=25, seconds=20.0)
    assert line == "step 25/100  loss 1.5000  epoch 0.75  20 s gone, 60 s left"


def test_a_resumed_run_counts_its_own_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    line = told(monkeypatch, {"loss": 1.5}, first=50, step=75, seconds=20.0)
    assert line.endswith("20 s gone, 20 s left")


def test_an_evaluation_tells_its_numbers_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    line = told(monkeypatch, {"eval_loss": 1.5, "eval_runtime": 3.0}, first=0, step=25, seconds=20.0)
    assert line == "step 25/100  eval loss 1.5000"
