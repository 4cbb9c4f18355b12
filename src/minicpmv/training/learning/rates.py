"""Each part's own learning rate and weight decay, and how an optimizer comes by them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from minicpmv.errors import UsageError
from minicpmv.releases.row import Parts
from minicpmv.training.flags.declared.learning import RATED, LearningArguments
from minicpmv.training.learning.parts import is_lora_tensor, part_of

__all__ = ["Rates", "check_rates", "follow_schedule", "split_groups"]

_FLAG_OF_PART = {
    "vision tower": "vision",
    "resampler": "resampler",
    "token embeddings": "embeddings",
    "output head": "embeddings",
}


@dataclass(frozen=True, slots=True)
class Rates:
    """What every parameter is trained with; a part's own value wins over LoRA's, LoRA's over the common one."""

    learning_rate: float
    weight_decay: float
    own_rates: Mapping[str, float]
    """By the flag's first word: ``vision``, ``resampler``, ``embeddings``, ``lora``."""
    own_decays: Mapping[str, float]
    parts: Parts
    """Where the model has its parts."""

    @classmethod
    def of_run(cls, run: LearningArguments, parts: Parts, *, learning_rate: float, weight_decay: float) -> Rates:
        """Read the flags for a model with these parts."""
        rates = {part: getattr(run, f"{part}_lr") for part in RATED}
        decays = {part: getattr(run, f"{part}_weight_decay") for part in RATED}
        return cls(
            learning_rate,
            weight_decay,
            {part: rate for part, rate in rates.items() if rate is not None},
            {part: decay for part, decay in decays.items() if decay is not None},
            parts,
        )

    def of(self, name: str) -> tuple[float, float]:
        """Return the learning rate and weight decay of a parameter, by its full name."""
        rate, decay = self.learning_rate, self.weight_decay
        for part in _asked_in_order(part_of(name, self.parts), is_lora=is_lora_tensor(name)):
            rate, decay = self.own_rates.get(part, rate), self.own_decays.get(part, decay)
        return rate, decay


def _asked_in_order(part: str, *, is_lora: bool) -> list[str]:
    """Flags that may speak for a parameter, the one that wins last."""
    own = _FLAG_OF_PART.get(part)
    return (["lora"] if is_lora else []) + ([own] if own else [])


def check_rates(run: LearningArguments, *, full: Collection[str], with_lora: Collection[str]) -> None:
    """Refuse a rate or decay that nothing would have.

    Args:
        run: The flags.
        full: Parts of which some parameters of the model itself are trained.
        with_lora: Parts that carry LoRA.

    Raises:
        UsageError: There is such a flag.
    """
    for what in ("lr", "weight_decay"):
        given = {part for part in RATED if getattr(run, f"{part}_{what}") is not None}
        learning = [_asked_in_order(part, is_lora=False) for part in full]
        learning += [_asked_in_order(part, is_lora=True) for part in with_lora]
        winners = {next((part for part in reversed(asked) if part in given), None) for asked in learning}
        for part in sorted(given - winners):
            thing = "a LoRA module without a value of its part's own" if part == "lora" else "a part that learns"
            raise UsageError(
                f"--{part}_{what}: found {getattr(run, f'{part}_{what}'):g}, which nothing reads, expected {thing}\n"
                f"  fix: remove the flag, or train the part (see the table of `What learns` in docs/training.md)"
            )


def split_groups(optimizer: Any, model: nn.Module, rates: Rates, *, decaying: Collection[str]) -> None:
    """Give an optimizer's parameters their rates and decays, by splitting its groups before its first step.

    Whatever else a group says, such as an optimizer's own settings for it, its pieces keep. Frozen parameters leave.

    Args:
        optimizer: One of transformers' choice, which has not stepped yet.
        model: The model whose parameters it has.
        rates: What each of them is trained with.
        decaying: Names of those that decay at all: no biases and no norms.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    pieces: dict[tuple[int, tuple[float, float]], list[torch.nn.Parameter]] = {}
    groups: list[dict[str, Any]] = list(optimizer.param_groups)
    for index, group in enumerate(groups):
        for parameter in group["params"]:
            if parameter.requires_grad:
                name = names[id(parameter)]
                rate, decay = rates.of(name)
                pieces.setdefault((index, (rate, decay if name in decaying else 0.0)), []).append(parameter)
    optimizer.param_groups.clear()
    # The common rate comes first: Trainer logs the first group's.
    for key in sorted(pieces, key=lambda key: key[1][0] != rates.learning_rate):
        index, (rate, decay) = key
        kept = {name: value for name, value in groups[index].items() if name not in ("params", "lr", "weight_decay")}
        optimizer.add_param_group({**kept, "params": pieces[key], "lr": rate, "weight_decay": decay})


def follow_schedule(scheduler: Any) -> None:
    """Give the first step of a resumed run the rates of its own schedule.

    torch restores those that the earlier run would have taken, which are others where a run gets another length.

    Args:
        scheduler: As the run has it, wrapped or not. One whose rates depend on more than the step stays as it is.
    """
    inner = getattr(scheduler, "scheduler", scheduler)
    if not isinstance(inner, LambdaLR):
        return
    schedules: Any = inner.lr_lambdas
    rates = [base * schedule(inner.last_epoch) for base, schedule in zip(inner.base_lrs, schedules, strict=True)]
    if rates != inner.get_last_lr():
        for group, rate in zip(inner.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        inner._last_lr = rates
