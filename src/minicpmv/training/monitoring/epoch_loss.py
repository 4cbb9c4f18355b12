"""Takes the mean training loss of each epoch over all its trained tokens; a run's last few steps say little."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from minicpmv.training.distributed.processes import add_up

__all__ = ["EPOCH_LOSS", "AtEndOfStep", "EpochLoss"]

EPOCH_LOSS = "epoch_loss"
"""Key of the log."""


class EpochLoss(TrainerCallback, ExportableState):
    """Adds up an epoch's loss. A checkpoint in the middle of an epoch keeps the sums, so that a resumed run goes on."""

    def __init__(self) -> None:
        self.nats = 0.0
        """Of the epoch until the last :meth:`settle`, over all processes."""
        self.tokens = 0.0
        """The trained tokens that they are of, counted as often as the nats are."""
        self._here: Tensor | None = None
        """[2] nats and tokens of this process since then, on the device."""
        self._items: Tensor | float = 0.0

    def add(self, loss: Tensor, num_items: Tensor | int | None) -> None:
        """Count a micro-batch.

        Args:
            loss: Scalar, its share of the loss of the whole step, as the backward pass had it.
            num_items: Trained tokens of the whole step, which the loss is divided by.
        """
        items = torch.as_tensor(0 if num_items is None else num_items, device=loss.device, dtype=torch.float32)
        added = torch.stack([loss.detach().float() * items, torch.zeros_like(items)])
        self._here = added if self._here is None else self._here + added
        self._items = items

    def end_step(self) -> None:
        """Count the trained tokens of a step, once for all its micro-batches."""
        if self._here is not None:
            self._here = self._here + torch.stack([torch.zeros_like(self._here[0]), torch.as_tensor(self._items)])
            self._items = 0.0 * self._here[1]

    def settle(self) -> None:
        """Add up what the processes have. Every process must call it."""
        if self._here is not None:
            nats, tokens = add_up(self._here).tolist()
            self.nats, self.tokens, self._here = self.nats + nats, self.tokens + tokens, None

    def mean(self) -> float | None:
        """Return the mean of the epoch until now, in nats per trained token; None if nothing was trained.

        Every process must call it.
        """
        self.settle()
        return self.nats / self.tokens if self.tokens else None

    def end_epoch(self) -> None:
        """Begin with the next one."""
        self.nats = self.tokens = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Withdraw what was said of the part of an epoch in which a shorter run ended: it is gone on with."""
        if self.tokens and state.global_step < state.max_steps:
            part = [entry for entry in state.log_history if EPOCH_LOSS in entry and entry["step"] == state.global_step]
            state.log_history = [entry for entry in state.log_history if entry not in part]

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps, in the form that transformers restores callbacks from."""
        return {"args": {}, "attributes": {"nats": self.nats, "tokens": self.tokens}}


@dataclass
class AtEndOfStep(TrainerCallback):
    """Has something done at the end of each step, before its numbers are logged and a checkpoint is written."""

    act: Callable[[], None]

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Act when the step is complete."""
        self.act()
