"""Measures the loss of the known answers' tokens, as in training, and its exponential."""

from __future__ import annotations

import math

from minicpmv.evaluation.metrics.base import Metric, Sample, Statistics

__all__ = ["Loss", "Perplexity"]


class Loss(Metric):
    """Measures nats per trained token over all records."""

    name = "loss"
    description = "nats per token of the known answers, as training's eval_loss; lower is better"
    is_share = False
    higher_is_better = False
    needs_answers = False
    needs_references = False
    expects = "a model to measure, or a file with measured losses"

    def measure(self, sample: Sample) -> Statistics | None:
        if sample.nats is None or not sample.weight:
            return None
        return sample.nats, sample.weight

    def value(self, sums: Statistics) -> float:
        nats, weight = sums
        return nats / weight


class Perplexity(Loss):
    """Computes the exponential of the loss."""

    name = "perplexity"
    description = "exponential of the loss; lower is better"

    def value(self, sums: Statistics) -> float:
        loss = super().value(sums)
        return math.exp(loss) if loss < 700 else math.inf  # a larger one would overflow
