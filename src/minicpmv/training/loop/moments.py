"""Calls functions of the trainer at moments of a run that transformers tells callbacks alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

__all__ = ["AtEndOfStep", "AtStart", "BeforeFirstStep", "StateOfObjective"]


class AtStart(TrainerCallback):
    """Calls functions, in their order, before the first step of a run, new or resumed."""

    def __init__(self, *acts: Callable[[], None]) -> None:
        self._acts = acts

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Act once engine and weights are as the first step finds them."""
        for act in self._acts:
            act()


@dataclass
class BeforeFirstStep(TrainerCallback):
    """Calls ``act`` before the first step of a new run."""

    act: Callable[[], None]

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Act if nothing was trained before."""
        if state.global_step == 0:
            self.act()


@dataclass
class AtEndOfStep(TrainerCallback):
    """Calls ``act`` at the end of each step, before its numbers are logged and a checkpoint is written."""

    act: Callable[[], None]

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Act when the step is complete."""
        self.act()


class StateOfObjective(TrainerCallback, ExportableState):
    """Has checkpoints keep what an objective knows of earlier steps. A resumed run makes this object again."""

    def __init__(self) -> None:
        self.kept: dict[str, float] = {}
        """What the checkpoint had, if the run is resumed."""
        self.read: Callable[[], Mapping[str, float]] = dict
        """Returns what the next checkpoint is to have."""

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps, in the form that transformers restores callbacks from."""
        return {"args": {}, "attributes": {"kept": dict(self.read())}}
