"""Learns the answers of conversations as they are: cross-entropy of each labelled token. The default."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from minicpmv.training.objectives.objective import Batch, Objective

__all__ = ["Supervised"]


class Supervised(Objective):
    """The weighted mean of the tokens' losses, which the model itself computes (``models.networks.loss``)."""

    def loss(self, model: nn.Module, batch: Batch, total: Tensor) -> Tensor:
        """Have the model divide by the label weight of the whole step; return a scalar."""
        return model(**batch, num_items_in_batch=total[0])["loss"]

    def measure(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the nats of a batch and the weight of its labels, shape (2,), in float64: sets are long."""
        weight = batch["layout"].label_weight
        return torch.tensor([float(model(**batch)["loss"]) * weight, weight], dtype=torch.float64)

    def perplexity_of(self, sums: Sequence[float]) -> tuple[float, float]:
        """Return the sums themselves."""
        nats, weight = sums
        return nats, weight
