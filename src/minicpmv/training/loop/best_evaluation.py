"""Finds the best of the evaluations of a run by the metric it is asked for now, when it is resumed.

transformers takes the best value from the checkpoint, whatever metric it is of: a run that goes on with another
``--metric_for_best_model`` would compare an accuracy with a loss.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import TrainerState, TrainingArguments

from minicpmv.files.checkpoint_folders import list_checkpoints
from minicpmv.training.distributed.console import notice

__all__ = ["Best", "find_best", "follow_metric"]


@dataclass(frozen=True, slots=True)
class Best:
    """The best evaluation."""

    value: float
    step: int
    num_since: int
    """Evaluations behind it that are not the best."""


def find_best(
    log: Sequence[Mapping[str, Any]], metric: str, *, is_greater_better: bool, steps: Collection[int] | None = None
) -> Best | None:
    """Return the best evaluation of a log, the earliest of equal ones; None without any.

    Args:
        log: As ``TrainerState.log_history``.
        metric: With or without ``eval_``.
        is_greater_better: Whether a larger value is.
        steps: Those that count, such as the ones whose checkpoints are there; by default all.

    >>> losses = {2: 3.0, 4: 2.0, 6: 2.5}
    >>> log = [{"step": 2, "loss": 1.0}, *({"step": step, "eval_loss": loss} for step, loss in losses.items())]
    >>> find_best(log, "loss", is_greater_better=False)
    Best(value=2.0, step=4, num_since=1)
    >>> find_best(log, "eval_loss", is_greater_better=False, steps=[2, 6])
    Best(value=2.5, step=6, num_since=0)
    """
    key, sign = metric if metric.startswith("eval_") else f"eval_{metric}", 1 if is_greater_better else -1
    best: Best | None = None
    for entry in log:
        if key not in entry or not entry["step"]:  # before training nothing is saved
            continue
        value, step = float(entry[key]), int(entry["step"])
        counts = not math.isnan(value) and (steps is None or step in steps)
        if counts and (best is None or sign * value > sign * best.value):
            best = Best(value, step, 0)
        elif best is not None:
            best = Best(best.value, best.step, best.num_since + 1)
    return best


def follow_metric(state: TrainerState, args: TrainingArguments) -> int | None:
    """Have a resumed run compare with the best evaluation by its own metric, also if the earlier run compared none.

    Args:
        state: As the checkpoint has it; its best evaluation is replaced if it is another by this metric.
        args: Those of this run.

    Returns:
        The evaluations behind the best one; None where nothing has changed.
    """
    metric = args.metric_for_best_model
    if metric is None:
        return None
    is_greater_better = bool(args.greater_is_better)
    best = find_best(state.log_history, metric, is_greater_better=is_greater_better)
    known = None if state.best_metric is None or math.isinf(state.best_metric) else state.best_metric
    if known == (None if best is None else best.value):
        return None
    saved = {int(path.name.rpartition("-")[2]): str(path) for path in list_checkpoints(args.output_dir or "")}
    if args.load_best_model_at_end:
        best = find_best(state.log_history, metric, is_greater_better=is_greater_better, steps=saved)
    state.best_metric, state.best_global_step = (best.value, best.step) if best else (None, None)
    state.best_model_checkpoint = saved.get(best.step) if best else None
    found = f"step {best.step} with {best.value:.4f}" if best else "none"
    of = " of those that are still saved" if args.load_best_model_at_end else ""
    notice(f"the earlier run did not compare by {metric} (--metric_for_best_model); the best by it{of}: {found}")
    return best.num_since if best else 0
