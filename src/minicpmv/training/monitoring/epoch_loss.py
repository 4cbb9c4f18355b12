"""Computes the mean training loss of each epoch over its trained tokens; a run's last few steps say little."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from minicpmv.training.distributed.processes import add_up

__all__ = ["EPOCH_LOSS", "EpochLoss"]

EPOCH_LOSS = "epoch_loss"
"""Key in the log."""


class EpochLoss(TrainerCallback, ExportableState):
    """Sums up an epoch's loss. A checkpoint within an epoch keeps the sums, so that a resumed run continues them."""

    def __init__(self) -> None:
        self.nats = 0.0
        """Summed loss of the epoch up to the last :meth:`settle`, over all processes."""
        self.tokens = 0.0
        """Number of trained tokens in that sum."""
        self._here: Tensor | None = None
        """[2] nats and tokens of this process since then, on the device."""
        self._items: Tensor | float = 0.0

    def add(self, loss: Tensor, num_items: Tensor | int | None) -> None:
        """Count a micro-batch.

        Args:
            loss: Scalar, its share of the loss of the whole step, as in the backward pass.
            num_items: Trained tokens of the whole step, by which the loss is divided.
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
        """Add up the sums of all processes. Every process must call it."""
        if self._here is not None:
            nats, tokens = add_up(self._here).tolist()
            self.nats, self.tokens, self._here = self.nats + nats, self.tokens + tokens, None

    def mean(self) -> float | None:
        """Return the epoch's mean so far, in nats per trained token; None if nothing was trained.

        Every process must call it.
        """
        self.settle()
        return self.nats / self.tokens if self.tokens else None

    def end_epoch(self) -> None:
        """Reset the sums for the next epoch."""
        self.nats = self.tokens = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Remove the logged mean of the partial epoch in which a shorter run ended, since the epoch continues."""
        if self.tokens and state.global_step < state.max_steps:
            part = [entry for entry in state.log_history if EPOCH_LOSS in entry and entry["step"] == state.global_step]
            state.log_history = [entry for entry in state.log_history if entry not in part]

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps, in the form that transformers restores callbacks from."""
        return {"args": {}, "attributes": {"nats": self.nats, "tokens": self.tokens}}
