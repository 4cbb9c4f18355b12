"""The loss of a batch of compared answers, and what is logged of it: from log-probabilities of tokens to sums.

Everything is a sum over answers, so that micro-batches and processes add up: whoever calls divides by the pairs and
tokens of the whole optimizer step. Nothing here waits for the device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from minicpmv.losses.mixture import Mixture
from minicpmv.losses.preference import Answer, How, Pair
from minicpmv.models.networks.layout import Layout

__all__ = ["SUMS", "BatchLoss", "PreferenceLoss", "describe_sums"]

# Shape letters in this file
#   M labelled tokens    A answers    C better answers    R worse answers    N pairs, or single answers

SUMS: tuple[str, ...] = (
    "loss",
    "nll",
    "units",
    "chosen",
    "rejected",
    "chosen_tokens",
    "rejected_tokens",
    "rewards_chosen",
    "rewards_rejected",
    "logps_chosen",
    "logps_rejected",
    "accuracies",
    "fallen",
)
"""What is added up: losses in nats; numbers of pairs (or single answers), of better and worse answers and of their
tokens; rewards and log-probabilities; how many pairs are told apart rightly, and how many better answers are less
likely than under the reference."""


class BatchLoss(NamedTuple):
    """Losses of one batch, not divided yet."""

    preference: Tensor
    """Summed over pairs or single answers; a scalar with a gradient path, even where there are none."""
    nll: Tensor
    """Summed over the labelled tokens of better answers."""
    sums: Tensor
    """(len(SUMS),) float32, detached, by the names in ``SUMS``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PreferenceLoss:
    """What a run with compared answers optimises."""

    mixture: Mixture
    how: How
    normalises_weights: bool = False
    """Whether the weighted log-probability of an answer is divided by the sum of its weights."""

    def count(self, layout: Layout) -> tuple[float, float]:
        """Count on the host what the losses of a batch are divided by: pairs or single answers, and better tokens."""
        better = [number for rank, number in zip(layout.ranks, layout.labels_of_each, strict=True) if rank > 0]
        units = sum(rank != 0 for rank in layout.ranks) if self.mixture.is_unpaired else len(better)
        return float(units), float(sum(better))

    def divide(self, loss: BatchLoss, counts: Tensor) -> Tensor:
        """Return a batch's share of the loss of a step.

        Args:
            loss: The batch's.
            counts: (2,), :meth:`count` of the whole step.
        """
        counts = counts.clamp(min=1)
        shared = loss.preference / counts[0]
        return shared + self.mixture.nll * loss.nll / counts[1] if self.mixture.nll else shared

    def loss_of(
        self,
        log_probs_M: Tensor,
        layout: Layout,
        *,
        reference_M: Tensor | None = None,
        weights_M: Tensor | None = None,
        delta: Tensor | float = 0.0,
    ) -> BatchLoss:
        """Compute the losses of a batch.

        Args:
            log_probs_M: Of each labelled token, float32.
            layout: The batch's, whose samples have ranks. Of a pair, the better answer is right before the other.
            reference_M: The same under the reference.
            weights_M: How much each token counts; 1 if not given. The supervised loss does not read them.
            delta: See ``How``.
        """
        answers = [sample for sample, rank in enumerate(layout.ranks) if rank]
        if not answers:
            nothing = log_probs_M.sum() * 0.0
            return BatchLoss(nothing, nothing, log_probs_M.new_zeros(len(SUMS)))
        numbers, device = list(layout.labels_of_each), log_probs_M.device
        plain_A = _sum_each(log_probs_M, numbers, answers)
        policy_A = self._weigh(log_probs_M, weights_M, numbers, answers, plain_A)
        reference_A = torch.zeros_like(policy_A)
        if reference_M is not None:
            summed_A = _sum_each(reference_M, numbers, answers)
            reference_A = self._weigh(reference_M, weights_M, numbers, answers, summed_A)
        lengths = [numbers[sample] for sample in answers]
        lengths_A = torch.tensor(lengths, dtype=torch.float32).to(device, non_blocking=True)
        whole = Answer(policy_A, reference_A, lengths_A)
        how = replace(self.how, delta=delta)
        better = [place for place, sample in enumerate(answers) if layout.ranks[sample] > 0]
        worse = [place for place, sample in enumerate(answers) if layout.ranks[sample] < 0]
        is_better = torch.tensor([layout.ranks[sample] > 0 for sample in answers]).to(device, non_blocking=True)
        rewards_A = how.beta * whole.ratios.detach()
        if self.mixture.is_unpaired:
            signs_A = torch.where(is_better, 1.0, -1.0)
            losses = [weight * loss.compute(whole, signs_A, how).sum() for loss, weight in self.mixture.parts]
            right = (signs_A * rewards_A > 0).sum()
        else:
            sides = [Answer(policy_A[side::2], reference_A[side::2], lengths_A[side::2]) for side in (0, 1)]
            pair = Pair(*sides)
            losses = [weight * loss.compute(pair, how).sum() for loss, weight in self.mixture.parts]
            right = (rewards_A[0::2] > rewards_A[1::2]).sum()
        preference = torch.stack(losses).sum()
        nll = -plain_A.where(is_better, 0.0).sum()
        counts = [len(answers) if self.mixture.is_unpaired else len(better), len(better), len(worse)]
        counts += [sum(lengths[place] for place in places) for places in (better, worse)]
        counted = torch.tensor(counts, dtype=torch.float32).to(device, non_blocking=True)
        measured = [
            each.where(mask, 0.0).sum() for each in (rewards_A, plain_A.detach()) for mask in (is_better, ~is_better)
        ]
        measured += [right, ((rewards_A < 0) & is_better).sum()]
        ends = [torch.stack([each.detach().float() for each in part]) for part in ((preference, nll), measured)]
        return BatchLoss(preference, nll, torch.cat([ends[0], counted, ends[1]]))

    def _weigh(
        self, values_M: Tensor, weights_M: Tensor | None, numbers: list[int], answers: list[int], plain_A: Tensor
    ) -> Tensor:
        """Sum up weighted values of each answer, as RLHF-V does of changed segments. arXiv 2312.00849."""
        if weights_M is None and not self.normalises_weights:
            return plain_A
        weights_M = torch.ones_like(values_M) if weights_M is None else weights_M
        summed_A = _sum_each(values_M * weights_M, numbers, answers)
        return summed_A / _sum_each(weights_M, numbers, answers) if self.normalises_weights else summed_A


def _sum_each(values_M: Tensor, numbers: Sequence[int], answers: Sequence[int]) -> Tensor:
    """Sum up the values of each answer, (A,): by their numbers, which the host knows, and always in one order."""
    parts = values_M.split(list(numbers))
    return torch.stack([parts[sample].sum() for sample in answers])


def describe_sums(sums: Mapping[str, float], mixture: Mixture) -> dict[str, float]:
    """Make the numbers of a log entry, by TRL's names, of sums by ``SUMS``; of no answer nothing is said."""

    def per(name: str, number: str) -> float | None:
        return sums[name] / sums[number] if sums[number] else None

    found = {
        "rewards/chosen": per("rewards_chosen", "chosen"),
        "rewards/rejected": per("rewards_rejected", "rejected"),
        "rewards/accuracies": per("accuracies", "units"),
        "logps/chosen": per("logps_chosen", "chosen"),
        "logps/rejected": per("logps_rejected", "rejected"),
        "lengths/chosen": per("chosen_tokens", "chosen"),
        "lengths/rejected": per("rejected_tokens", "rejected"),
        "nll_loss": per("nll", "chosen_tokens"),
    }
    chosen, rejected = found["rewards/chosen"], found["rewards/rejected"]
    if chosen is not None and rejected is not None:
        found["rewards/margins"] = chosen - rejected
    if mixture.needs_reference:
        found["rewards/fallen"] = per("fallen", "chosen")
    preference = per("loss", "units")
    if preference is not None:
        found["loss"] = preference + mixture.nll * (found["nll_loss"] or 0.0)
    return {name: value for name, value in found.items() if value is not None}
