"""How likely the known answers are to the model: the loss of their tokens, as in training, and its exponential."""

from __future__ import annotations

import math

from minicpmv.evaluation.metrics.base import Metric, Sample, Statistics

__all__ = ["Loss", "Perplexity"]


class Loss(Metric):
    """Nats for each trained token of all records."""

    name = "loss"
    description = "nats for each token of the known answers, as training's eval_loss; lower is better"
    is_share = False
    higher_is_better = False
    needs_answers = False
    needs_references = False
    expects = "a model to measure, or a file that holds what one measured"

    def measure(self, sample: Sample) -> Statistics | None:
        if sample.nats is None or not sample.weight:
            return None
        return sample.nats, sample.weight

    def value(self, sums: Statistics) -> float:
        nats, weight = sums
        return nats / weight


class Perplexity(Loss):
    """The exponential of the loss."""

    name = "perplexity"
    description = "its exponential; lower is better"

    def value(self, sums: Statistics) -> float:
        loss = super().value(sums)
        return math.exp(loss) if loss < 700 else math.inf  # beyond that floats end
