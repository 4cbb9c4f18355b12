"""Refuses a run whose flags leave it no update that could change a weight, and says where they leave little.

A warmup that is a share of the steps ends before the run does; one that is a number of steps is what was asked.

What flags cannot tell, :mod:`minicpmv.training.checkpoints.trained_weights` sees at the end.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any, cast

import torch
from transformers import SchedulerType, TrainingArguments, get_scheduler

from minicpmv.errors import UsageError
from minicpmv.training.learning.rates import Rates
from minicpmv.wording import counted

__all__ = ["describe_little_effect", "refuse_no_effect", "shorten_warmup"]

# Their rate follows the measured loss, and is the whole one at first.
_BY_LOSS = {SchedulerType.REDUCE_ON_PLATEAU.value, "greedy"}


_MOST_STEPS = 100_000_000
"""More than any run has taken: at ten steps a second they last four months."""
_LEAST_MOVED = 1e-7
"""How far a weight has to be able to move in a whole run: less is below float32's last digit of a weight of 1."""


def shorten_warmup(args: TrainingArguments, *, num_steps: int) -> tuple[TrainingArguments, list[str]]:
    """Make a warmup that is a share of the steps, and is rounded up to all of them, end before the last step.

    The recipe and the scripts give a share, and a run of one step would have the rate 0 by it.

    Args:
        args: As training has them.
        num_steps: Optimizer steps of the whole run.

    Returns:
        ``args``, or a changed copy of them, and a notice of the change.
    """
    share = args.warmup_steps
    if not 0 < share < 1 or num_steps < 1 or _has_own_schedule(args):
        return args, []
    found = args.get_warmup_steps(num_steps)
    if found < num_steps or _last_rate(args, num_steps) == 1:
        return args, []
    args = copy.copy(args)
    args.warmup_steps = num_steps - 1
    return args, [
        f"--warmup_steps {share:g}: {counted(found, 'step')} of warmup would be all of the run, so the warmup has "
        f"{counted(num_steps - 1, 'step')}"
    ]


def refuse_no_effect(args: TrainingArguments, rates: Rates, trained: Iterable[str], *, num_steps: int) -> None:
    """Make sure that some step has a learning rate above 0.

    Args:
        args: As training has them.
        rates: Of each parameter.
        trained: Names of the parameters that learn.
        num_steps: Optimizer steps of the whole run.

    Raises:
        UsageError: There is no step, no rate, or no step with a rate; or more steps than anybody can wait for.
    """
    if num_steps > _MOST_STEPS:
        flag, found = ("max_steps", args.max_steps) if args.max_steps > 0 else ("num_train_epochs", _epochs(args))
        raise UsageError(
            f"--{flag}: found {found}, which makes {num_steps:,} optimizer steps, expected at most {_MOST_STEPS:,}\n"
            f"  fix: lower --{flag}"
        )
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
    if not _has_own_schedule(args) and not _has_step_with_rate(args, num_steps):
        warmup = args.get_warmup_steps(num_steps)
        raise UsageError(
            f"--warmup_steps: found {warmup} step{'s' * (warmup != 1)} of warmup (--warmup_steps "
            f"{args.warmup_steps:g}) in a run of {num_steps}, whose learning rate is 0 then, expected a step with a "
            "rate: nothing would be trained\n  fix: --warmup_steps 0, or more steps"
        )


def describe_little_effect(
    args: TrainingArguments, rates: Rates, trained: Iterable[str], *, num_steps: int
) -> list[str]:
    """Say where flags let a run learn, but hardly anything.

    Args:
        args: As training has them.
        rates: Of each parameter.
        trained: Names of the parameters that learn.
        num_steps: Optimizer steps of the whole run.

    Returns:
        Notices.
    """
    if _has_own_schedule(args):
        return []
    notices: list[str] = []
    warmup = args.get_warmup_steps(num_steps)
    if warmup >= num_steps:
        reached = _last_rate(args, num_steps)
        if reached < 1:
            notices.append(
                f"--warmup_steps {args.warmup_steps:g}: the warmup of {warmup} steps is no shorter than the run of "
                f"{num_steps}, so that the learning rate gets to {reached:.2g} of what was asked"
            )
    rate = max(rates.of(name)[0] for name in trained)
    clipped = _update_of_clipped(args)
    moved = rate * clipped * num_steps
    if moved < _LEAST_MOVED:
        by_clipping = rate * num_steps >= _LEAST_MOVED
        flag = f"--max_grad_norm {args.max_grad_norm:g}" if by_clipping else f"--learning_rate {rate:g}"
        beside = f" of gradients clipped to it (--adam_epsilon {args.adam_epsilon:g})" if by_clipping else ""
        notices.append(
            f"{flag}: no weight moves by more than about {moved:.2g} in all {num_steps} steps{beside}, which is as "
            "good as nothing learnt; raise it, or leave it out"
        )
    return notices


def _update_of_clipped(args: TrainingArguments) -> float:
    """Return about how large an update at a rate of 1 can be for clipping's sake; 1 where that decides nothing.

    Adam divides a gradient by its own size and epsilon, SGD by nothing; the others look at its direction alone.
    """
    optimizer = str(getattr(args.optim, "value", args.optim))
    if not args.max_grad_norm:
        return 1.0
    if "adam" in optimizer:
        return min(1.0, args.max_grad_norm / args.adam_epsilon)
    return min(1.0, args.max_grad_norm) if optimizer == "sgd" else 1.0


def _has_own_schedule(args: TrainingArguments) -> bool:
    config: Any = args.deepspeed
    return isinstance(config, dict) and bool(config.get("scheduler") or config.get("optimizer"))


def _epochs(args: TrainingArguments) -> str:
    return f"{args.num_train_epochs:g}"


def _has_step_with_rate(args: TrainingArguments, num_steps: int) -> bool:
    """Try the schedule on a rate of 1. It ends at the first rate that is not 0, which is one of the first two."""
    if _is_by_loss(args):
        return True
    schedule = _schedule(args, num_steps)
    for _ in range(num_steps):
        if schedule.optimizer.param_groups[0]["lr"]:
            return True
        schedule.optimizer.step()
        schedule.step()
    return False


def _last_rate(args: TrainingArguments, num_steps: int) -> float:
    """Return the rate of the last step, of a rate of 1."""
    return 1.0 if _is_by_loss(args) else float(_schedule(args, num_steps).lr_lambdas[0](num_steps - 1))


def _is_by_loss(args: TrainingArguments) -> bool:
    return getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type) in _BY_LOSS


def _schedule(args: TrainingArguments, num_steps: int) -> Any:
    """Make the run's schedule, on a rate of 1."""
    return get_scheduler(
        args.lr_scheduler_type,
        optimizer=torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=1.0),
        num_warmup_steps=args.get_warmup_steps(num_steps),
        num_training_steps=num_steps,
        scheduler_specific_kwargs=cast("dict[str, Any] | None", args.lr_scheduler_kwargs),
    )
