"""Defines what an objective is: the loss of a batch, what divides it, what is logged, measured and kept of it.

The trainer knows objectives by this class alone. Only ``loss`` must be written; all else has a default.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import TrainingArguments

from minicpmv.data.batches.row_planner import RowPlanner
from minicpmv.data.samples.dataset import ConversationDataset
from minicpmv.errors import ConfigError
from minicpmv.models.networks.layout import Layout
from minicpmv.wording import name_type

__all__ = ["Batch", "Objective", "Start", "check_loss", "log_probs_of"]

# Shape letters in this file
#   K numbers that are added up    M labelled tokens

Batch = Mapping[str, Any]
"""What a collator makes, on the device: the arguments of the model's ``forward``, ``layout`` among them."""

_NOT_READ = ("reference_log_probs", "answer_keys", "label_weights")
"""What a batch may hold that log-probabilities do not depend on."""


def log_probs_of(model: nn.Module, batch: Batch) -> Tensor:
    """Ask a model for the log-probabilities of a batch's labelled tokens, (M,) float32, with a gradient path."""
    inputs = {name: value for name, value in batch.items() if name not in _NOT_READ}
    return model(**inputs, return_log_probs=True)["log_probs"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """What an objective may use when a run starts, new or resumed; engine and weights are as in the first step."""

    model: nn.Module
    """The model without an engine around it, for what the engine hides: its adapter, its modules."""
    args: TrainingArguments
    step: int
    """Steps that were trained before; 0 in a new run."""
    datasets: Sequence[ConversationDataset]
    """Training records, then those of each validation set."""
    load: Callable[[Dataset[Any], RowPlanner], Iterable[dict[str, Any]]]
    """Makes a loader of planned rows of records, of those of this process."""
    asking: Callable[[], AbstractContextManager[nn.Module]]
    """Yields the model in evaluation mode, without gradients, in the precision of a step."""
    compute: Callable[[Callable[[Batch], Tensor], dict[str, Any]], Tensor]
    """Calls a function on a batch of ``load``, once it is on the device."""


def check_loss(objective: Objective, loss: object) -> Tensor:
    """Check what an objective's ``loss`` has returned.

    No value is looked at, so that no step waits for the device: a loss that is NaN ends the run at the step's end.

    Returns:
        The same tensor, of shape ().

    Raises:
        ConfigError: It is no tensor, not a single number, or has no gradient path where one is needed.
    """
    if not isinstance(loss, Tensor):
        found = name_type(loss)
    elif loss.ndim or not loss.is_floating_point():
        found = f"a tensor of shape {tuple(loss.shape)} and {loss.dtype}"
    elif torch.is_grad_enabled() and not loss.requires_grad:
        found = "a tensor without a gradient path"
    else:
        return loss
    raise ConfigError(
        f"objective {type(objective).__qualname__}.loss: found {found}, expected the batch's share of the loss as a "
        "tensor of one number, shape (), with a gradient path\n"
        "  fix: sum over the tokens and divide by total[0], without item(), detach() or no_grad()"
    )


class Objective(ABC):
    """What a run optimises.

    The loss of an optimizer step is a sum over its batches, on all processes, divided by what they count together. So
    neither the size of a batch nor the number of processes changes it. An objective of your own is one method::

        class Focal(Objective):
            \"\"\"Spends less on tokens that the model already knows. arXiv 1708.02002.\"\"\"

            def loss(self, model, batch, total):
                log_probs = log_probs_of(model, batch)
                return -((1 - log_probs.exp()) ** 2 * log_probs).sum() / total[0]
    """

    compares_answers = False
    """Whether rows hold answers that are compared, see ``data.samples.compared``."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch, total: Tensor) -> Tensor:
        """Compute a batch's share of the loss of its step: a scalar with a gradient path, even if nothing is trained.

        A run ends with a ``ConfigError`` at anything else (:func:`check_loss`), and with a ``NotFiniteError`` at NaN.
        Call the model equally often whatever the batch holds: engines that shard it would wait forever.

        Args:
            model: What a step calls, an engine around it.
            batch: The batch.
            total: (K,) float32 on the device, :meth:`count` of the whole step, over all processes.
        """

    def count(self, layouts: Sequence[Layout]) -> Tensor:
        """Count on the host what the loss of batches is divided by.

        Returns:
            (K,) float32 on the CPU; the first is what a logged loss is per. By default the weight of all labels.
        """
        return torch.tensor([layout.label_weight for layout in layouts]).sum()[None]

    def measure(self, model: nn.Module, batch: Batch) -> Tensor:
        """Measure a batch of an evaluation.

        Returns:
            (K,), sums that add up over batches and processes; :meth:`describe` reads them. By default the loss, not
            divided yet, and what divides it.
        """
        count = self.count([batch["layout"]])
        loss = check_loss(self, self.loss(model, batch, count.clamp(min=1).to(batch["input_ids"].device)))
        return torch.stack([loss.float().cpu() * count[0].clamp(min=1), count[0]])

    def describe(self, sums: Sequence[float]) -> dict[str, float]:
        """Return the numbers of an evaluation by log key: ``loss``, unless nothing was counted, and any others.

        Args:
            sums: (K,), of all that :meth:`measure` returned.
        """
        loss, count = sums
        return {"loss": loss / count} if count else {}

    def perplexity_of(self, sums: Sequence[float]) -> tuple[float, float] | None:
        """Return the nats of an evaluation and the weight of its tokens, if its loss is that of tokens; else None."""
        return None

    def read(self, step: int) -> dict[str, float]:
        """Return more numbers to log of the steps since the last call, of which ``step`` is the last.

        Every process calls it, so the numbers of all may be added up.
        """
        return {}

    def begin(self, start: Start) -> None:  # noqa: B027  by default nothing is to be done
        """Prepare for the first step of a run, new or resumed. Every process calls it, after :meth:`restore`."""

    def end_step(self) -> None:  # noqa: B027
        """Do what is due once the weights are updated. Every process calls it."""

    def state(self) -> dict[str, float]:
        """Return what a checkpoint keeps of the steps so far, the same on every process."""
        return {}

    def restore(self, state: Mapping[str, float]) -> None:  # noqa: B027
        """Go on from what :meth:`state` returned when the checkpoint was written that a run resumes from."""
