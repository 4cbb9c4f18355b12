"""Shows a run's progress: a bar on a terminal, and one line of numbers per logging step."""

from __future__ import annotations

import time
from typing import Any

import psutil
import torch
from transformers import ProgressCallback, TrainerControl, TrainerState, TrainingArguments

from minicpmv.files.posix import HAS_LIMITS, resource
from minicpmv.report.evaluations import measured_keys
from minicpmv.training.distributed.console import say
from minicpmv.training.launching.caller import tell_step
from minicpmv.wording import format_seconds

__all__ = ["RunProgress", "format_log", "memory_gib"]

_SHOWN = (
    ("loss", "loss {:.4f}"),
    ("epoch_loss", "mean loss of the epoch {:.4f}"),
    ("learning_rate", "lr {:.2e}"),
    ("grad_norm", "gradient {:.3g}"),
    ("rewards/margins", "margin {:.3g}"),
    ("rewards/accuracies", "accuracy {:.0%}"),
    ("rewards/chosen", "rewards {:.3g}"),
    ("rewards/rejected", "and {:.3g}"),
    ("tokens_per_second", "{:,.0f} tokens/s"),
    ("tflops_per_second", "{:.3g} TFLOP/s"),
    ("memory_gib", "{:.2f} GiB"),
)


def memory_gib() -> float:
    """Return this process's peak memory so far, in GiB: of the accelerator if there is one, otherwise of RAM."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    if not HAS_LIMITS:  # Windows, whose peak is not asked for
        return psutil.Process().memory_info().rss / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts in KiB


def format_log(logs: dict[str, Any], *, step: int, max_steps: int) -> str | None:
    """Format one logging step as a line; None if it has no number to show.

    >>> format_log({"loss": 1.5, "learning_rate": 1e-4, "epoch": 0.5}, step=10, max_steps=100)
    'step 10/100  loss 1.5000  lr 1.00e-04'
    """
    shown = [*_SHOWN]
    for key, name, metric in measured_keys([logs]):
        of_set = f"{name} " if name else ""
        shown.append((key, f"eval {of_set}loss {{:.4f}}" if metric == "loss" else f"{of_set}{metric} {{:.4f}}"))
    parts = [text.format(logs[name]) for name, text in shown if name in logs]
    return "  ".join([f"step {step}/{max_steps}", *parts]) if parts else None


class RunProgress(ProgressCallback):
    """Shows transformers' progress bar with a readable line; without a terminal the line alone, with the time."""

    def __init__(self, *, bar: bool) -> None:
        super().__init__()
        self._bar = bar
        self._began = (0.0, 0)
        """Clock and step at which this process began to train."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Show the bar, unless bars are off."""
        self._began = time.monotonic(), state.global_step
        if self._bar:
            super().on_train_begin(args, state, control, **kwargs)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Move the bar, unless bars are off, and that of a program that has started the run."""
        if state.is_world_process_zero:
            tell_step(state.global_step, state.max_steps)
        if self._bar:
            super().on_step_end(args, state, control, **kwargs)

    def on_prediction_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        eval_dataloader: Any = None,
        **kwargs: Any,
    ) -> None:
        """Move the evaluation's bar, unless bars are off."""
        if self._bar:
            super().on_prediction_step(args, state, control, eval_dataloader, **kwargs)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Close the bar, unless bars are off."""
        if self._bar:
            super().on_train_end(args, state, control, **kwargs)

    def on_log(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Print the line of a step, above the bar if there is one; transformers would print a dictionary."""
        line = format_log(logs or {}, step=state.global_step, max_steps=state.max_steps)
        if line is None or not state.is_world_process_zero:
            return
        if self.training_bar is not None:
            self.training_bar.write(line)
        elif "loss" in (logs or {}):
            say(f"{line}  {self._describe_time(state)}")
        else:
            say(line)

    def _describe_time(self, state: TrainerState) -> str:
        """Say what a bar would show: epoch, time until now, and time that the steps left will take."""
        clock, first = self._began
        elapsed, done = time.monotonic() - clock, max(1, state.global_step - first)
        left = elapsed / done * (state.max_steps - state.global_step)
        return f"epoch {state.epoch or 0:.2f}  {format_seconds(elapsed)} gone, {format_seconds(left)} left"
