"""Lists the objectives by the names that ``--objective`` takes: one more is a module of this folder and a row here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import TrainingArguments

from minicpmv.training.flags.declarations import RunArguments
from minicpmv.training.objectives.objective import Objective
from minicpmv.training.objectives.preference import make_preference
from minicpmv.training.objectives.supervised import Supervised

__all__ = ["OBJECTIVES", "choose_objective", "name_objective"]

OBJECTIVES: dict[str, Callable[[RunArguments, TrainingArguments, Any], Objective]] = {
    "sft": lambda run, args, model: Supervised(),
    "dpo": make_preference,
}
"""From flags, transformers' arguments, and the model as the run starts, before an engine or a checkpoint changes it."""


def choose_objective(run: RunArguments, args: TrainingArguments, model: Any) -> Objective:
    """Make the objective that ``--objective`` names. Every process must call it."""
    return OBJECTIVES[run.objective](run, args, model)


def name_objective(objective: Objective) -> str:
    """Name an objective of one's own by its class, as resuming compares it; its settings are not compared."""
    return f"{type(objective).__module__}.{type(objective).__qualname__}"
