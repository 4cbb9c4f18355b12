"""Resolves how often a run logs, evaluates and saves, from its number of steps, where no flag says so.

A run of twelve steps is not evaluated every thousand steps. Values given on the command line are kept.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import cast

from transformers import TrainingArguments
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from minicpmv.errors import UsageError
from minicpmv.training.flags.arguments import Request
from minicpmv.training.inputs.planned_batches import BatchPlan, count_steps
from minicpmv.wording import counted

__all__ = ["describe_rhythm", "resolve_rhythm"]

_LINES = 20
"""Minimum number of log entries of a short run."""
_STEPS_BETWEEN_LINES = 10
_STEPS_BETWEEN_EVALUATIONS = 1000
_EVALUATIONS = 20
"""Approximate number of evaluations of a run with very many epochs."""
_ASKING_FOR_DATA = ("do_eval", "eval_on_start", "eval_strategy")
_SAVING = ("save_strategy", "save_steps")


def resolve_rhythm(
    request: Request, args: TrainingArguments, plan: BatchPlan, *, sets: Sequence[str]
) -> tuple[TrainingArguments, list[str]]:
    """Choose the intervals that the command line does not set.

    Args:
        request: The flags as given.
        args: transformers' arguments.
        plan: The run's plan of batches.
        sets: Names of the validation sets; empty if there is none.

    Returns:
        A changed copy of ``args``, and notices of overruled flags. It is copied and not built again because building it
        sets up devices and DeepSpeed.

    Raises:
        UsageError: A flag requires evaluations, and there are none.
    """
    args = copy.copy(args)
    given, num_steps = request.given, count_steps(plan, args)
    if given.isdisjoint(("logging_steps", "logging_strategy")):
        args.logging_steps = max(1, min(_STEPS_BETWEEN_LINES, num_steps // _LINES))
    if not sets:
        return args, _without_data(request, args)
    if "eval_strategy" not in given:
        args.eval_strategy = IntervalStrategy.STEPS
        if "eval_steps" not in given:
            args.eval_steps = _choose_interval(num_steps, count_steps(plan, args, epochs=1))
    return args, _resolve_best(request, args) if request.run.keep_best else []


def describe_rhythm(args: TrainingArguments) -> str:
    """Describe in one line how often a run is evaluated, if it is."""
    strategy = IntervalStrategy(args.eval_strategy)
    if strategy == IntervalStrategy.STEPS:
        interval = cast("float", args.eval_steps)  # None with any other strategy
        when = f"every {counted(round(interval), 'step')}" if interval >= 1 else f"every {interval:.3g} of the run"
    else:
        when = "in each epoch" if strategy == IntervalStrategy.EPOCH else "once, at the end"
    best = (
        f", and the checkpoint with the best {args.metric_for_best_model} is kept"
        if args.load_best_model_at_end
        else ""
    )
    return f"evaluation: {when}{best}"


def _choose_interval(num_steps: int, steps_per_epoch: int) -> int:
    """Return the steps of an epoch, fewer if epochs are long, or those of several if they are many and short."""
    epochs_together = max(1, round(num_steps / steps_per_epoch / _EVALUATIONS))
    return min(epochs_together * steps_per_epoch, _STEPS_BETWEEN_EVALUATIONS)


def _without_data(request: Request, args: TrainingArguments) -> list[str]:
    run, found = request.run, "no record to measure on (--eval_data_path, --validation_split)"
    needing = {
        "--early_stopping": bool(run.early_stopping),
        "--keep_best": run.keep_best,
        "--eval_samples": "eval_samples" in request.given and run.eval_samples,
        "--eval_metrics": run.eval_metrics,
    }
    for flag, is_on in needing.items():
        if is_on:
            raise UsageError(f"{flag}: found {found}, expected some\n  fix: add --eval_data_path, or remove {flag}")
    asked = [f"--{name}" for name in _ASKING_FOR_DATA if request.training.get(name, "no") not in (False, "no")]
    asked += ["--measure"] if run.measure and "measure" in request.given else []
    args.eval_strategy, args.do_eval, args.eval_on_start = IntervalStrategy.NO, False, False
    return [f"{', '.join(asked)}: found {found}, so nothing is evaluated"] if asked else []


def _resolve_best(request: Request, args: TrainingArguments) -> list[str]:
    """Save at each evaluation, because the best weights are loaded from a checkpoint."""
    if args.eval_strategy == IntervalStrategy.NO:
        raise UsageError(
            "--keep_best true --eval_strategy no: found both, expected one: the best checkpoint is "
            "chosen by evaluations\n"
            "  fix: remove one of them"
        )
    if args.save_strategy == SaveStrategy.NO:
        raise UsageError(
            "--keep_best true --save_strategy no: found both, expected one: the best weights are "
            "loaded from a checkpoint\n  fix: remove one of them"
        )
    args.load_best_model_at_end = True
    if args.save_strategy == SaveStrategy.BEST:
        return []
    before = (args.save_strategy, args.save_steps)
    args.save_strategy = SaveStrategy(IntervalStrategy(args.eval_strategy).value)
    args.save_steps = args.eval_steps or args.save_steps
    asked = [f"--{name}" for name in _SAVING if name in request.given]
    if not asked or before == (args.save_strategy, args.save_steps):
        return []
    return [f"--keep_best: a checkpoint is saved at each evaluation, which overrules {', '.join(asked)}"]
