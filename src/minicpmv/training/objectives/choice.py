"""Lists the objectives by the names that ``--objective`` takes: one more is a module of this folder and a row here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import TrainingArguments

from minicpmv.errors import UsageError
from minicpmv.training.flags.declarations import RunArguments
from minicpmv.training.objectives.objective import Objective
from minicpmv.training.objectives.preference import Preference, make_preference
from minicpmv.training.objectives.supervised import Supervised

__all__ = ["OBJECTIVES", "check_objective", "choose_objective", "is_own", "name_objective"]

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


def is_own(objective: Objective) -> bool:
    """Return whether an objective is the caller's, and not one of this package's."""
    return type(objective) not in (Preference, Supervised)


def check_objective(objective: object) -> None:
    """Refuse what a caller passes in place of an objective of their own; None is no objective of their own.

    Raises:
        UsageError: It is no ``Objective``.
    """
    if objective is None or isinstance(objective, Objective):
        return
    fix = "write a class with a method loss (docs/python.md)"
    if isinstance(objective, type) and issubclass(objective, Objective):
        fix = f"objective={objective.__name__}()"
    known = f" (--objective takes the names {', '.join(OBJECTIVES)})" if isinstance(objective, str) else ""
    raise UsageError(
        f"objective: found {objective!r}, expected an instance of a subclass of Objective{known}\n  fix: {fix}"
    )
