"""Refuses a run whose flags leave it no update that could change a weight, before its first step.

What flags cannot tell, :mod:`minicpmv.training.weights` sees at the end.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import torch
from transformers import SchedulerType, TrainingArguments, get_scheduler

from minicpmv.errors import UsageError
from minicpmv.training.rates import Rates

__all__ = ["refuse_no_effect"]

# Their rate follows the measured loss, and is the whole one at first.
_BY_LOSS = {SchedulerType.REDUCE_ON_PLATEAU.value, "greedy"}


def refuse_no_effect(args: TrainingArguments, rates: Rates, trained: Iterable[str], *, num_steps: int) -> None:
    """Make sure that some step has a learning rate above 0.

    Args:
        args: As training has them.
        rates: Of each parameter.
        trained: Names of the parameters that learn.
        num_steps: Optimizer steps of the whole run.

    Raises:
        UsageError: There is no step, no rate, or no step with a rate.
    """
    if num_steps < 1:
        flag, found = ("max_steps", args.max_steps) if args.max_steps == 0 else ("num_train_epochs", _epochs(args))
        raise UsageError(
            f"--{flag}: found {found}, so no optimizer step, expected at least one: nothing would be trained\n"
            f"  fix: raise --{flag}"
        )
    if not any(rates.of(name)[0] for name in trained):
        raise UsageError(
            "--learning_rate: found 0 for everything that learns, expected more: nothing would be trained\n"
            "  fix: raise it, or leave it out"
        )
    config: Any = args.deepspeed
    has_own_schedule = isinstance(config, dict) and bool(config.get("scheduler") or config.get("optimizer"))
    if not has_own_schedule and not _has_step_with_rate(args, num_steps):
        warmup = args.get_warmup_steps(num_steps)
        raise UsageError(
            f"--warmup_steps: found {warmup} step{'s' * (warmup != 1)} of warmup (--warmup_steps "
            f"{args.warmup_steps:g}) in a run of {num_steps}, whose learning rate is 0 then, expected a step with a "
            "rate: nothing would be trained\n  fix: --warmup_steps 0, or more steps"
        )


def _epochs(args: TrainingArguments) -> str:
    return f"{args.num_train_epochs:g}"


def _has_step_with_rate(args: TrainingArguments, num_steps: int) -> bool:
    """Try the schedule on a rate of 1. It ends at the first rate that is not 0, which is one of the first two."""
    if getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type) in _BY_LOSS:
        return True
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=1.0)
    schedule: Any = get_scheduler(
        args.lr_scheduler_type,
        optimizer=optimizer,
        num_warmup_steps=args.get_warmup_steps(num_steps),
        num_training_steps=num_steps,
        scheduler_specific_kwargs=cast("dict[str, Any] | None", args.lr_scheduler_kwargs),
    )
    for _ in range(num_steps):
        if optimizer.param_groups[0]["lr"]:
            return True
        optimizer.step()
        schedule.step()
    return False
