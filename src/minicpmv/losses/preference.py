"""Losses of preference tuning: each is one function of the log-probabilities of whole answers, one value for each pair.

Another loss is one more function here, and a test of its value. None of them needs torch to be imported, so that the
command line knows their names. Sums are over the tokens of an answer, its end token included; ``beta`` is the strength
of the reference. Sources stand at the functions; where publications and libraries differ, both forms are here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

    Values = Tensor
    """(N,) float, one for each pair or answer."""

__all__ = ["LOSSES", "Answer", "How", "Pair", "Term"]


@dataclass(frozen=True, kw_only=True, slots=True)
class How:
    """Numbers that losses share, by TRL's names."""

    beta: float = 0.1
    """Strength of the reference; for ``simpo`` the scale of the margin."""
    label_smoothing: float = 0.0
    """Share of pairs that are assumed to be swapped."""
    simpo_gamma: float = 1.0
    """Margin that ``simpo`` asks for."""
    discopop_tau: float = 0.05
    """Temperature of ``discopop``'s mixture."""
    delta: Tensor | float = 0.0
    """Mean reward of earlier steps, which ``bco_pair_delta`` subtracts."""


class Answer(NamedTuple):
    """Answers, (N,) each."""

    sums: Tensor
    """Log-probability of each whole answer under the model, in nats."""
    reference: Tensor | float
    """The same under the reference; 0 where there is none."""
    lengths: Tensor
    """Tokens of each answer."""

    @property
    def ratios(self) -> Values:
        """How much more likely each is than under the reference, in nats."""
        return self.sums - self.reference

    @property
    def means(self) -> Values:
        """Log-probability for each token."""
        return self.sums / self.lengths


class Pair(NamedTuple):
    """A better and a worse answer to each of N questions."""

    chosen: Answer
    rejected: Answer

    @property
    def margin(self) -> Values:
        """By how much more the better answer was favoured than the worse one, compared with the reference."""
        return self.chosen.ratios - self.rejected.ratios

    @property
    def mean_margin(self) -> Values:
        """The same for each token."""
        return self.chosen.ratios / self.chosen.lengths - self.rejected.ratios / self.rejected.lengths


@dataclass(frozen=True, slots=True)
class Term:
    """One loss and what it asks for."""

    name: str
    compute: Callable[..., Tensor]
    """From ``Pair`` and ``How`` to (N,), a loss for each pair; or from ``Answer``, signs and ``How``."""
    needs_reference: bool
    of: Literal["pair", "answer"]
    """``answer``: of answers that were judged by themselves."""

    @property
    def summary(self) -> str:
        """First line of what is known about it."""
        return (self.compute.__doc__ or "").partition("\n")[0]


LOSSES: dict[str, Term] = {}
"""By name, in the order of this module."""


def _loss(
    *, needs_reference: bool = True, of: Literal["pair", "answer"] = "pair"
) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    def register(compute: Callable[..., Tensor]) -> Callable[..., Tensor]:
        LOSSES[compute.__name__] = Term(compute.__name__, compute, needs_reference, of)
        return compute

    return register


def _log_sigmoid(values: Tensor) -> Tensor:
    return -(-values).logaddexp(values.new_zeros(()))


@_loss()
def sigmoid(pair: Pair, how: How) -> Values:
    """DPO: -log sigmoid of the margin. arXiv 2305.18290.

    With ``label_smoothing`` the conservative form, as if that share of pairs were swapped (cDPO).
    """
    logits, share = how.beta * pair.margin, how.label_smoothing
    plain = -_log_sigmoid(logits)
    return plain if not share else (1 - share) * plain - share * _log_sigmoid(-logits)


@_loss()
def robust(pair: Pair, how: How) -> Values:
    """DPO that is unbiased if ``label_smoothing`` of the pairs are swapped. arXiv 2403.00409."""
    logits, share = how.beta * pair.margin, how.label_smoothing
    return (-(1 - share) * _log_sigmoid(logits) + share * _log_sigmoid(-logits)) / (1 - 2 * share)


@_loss()
def hinge(pair: Pair, how: How) -> Values:
    """As far as the margin is below 1 (SLiC). arXiv 2305.10425."""
    return (1 - how.beta * pair.margin).relu()


@_loss()
def ipo(pair: Pair, how: How) -> Values:
    """Squared distance of the margin for each token from 1 / (2 beta), as TRL and LLaMA-Factory compute it."""
    return (pair.mean_margin - 1 / (2 * how.beta)) ** 2


@_loss()
def ipo_sum(pair: Pair, how: How) -> Values:
    """The same of the margin of whole answers, as the paper has it. arXiv 2310.12036."""
    return (pair.margin - 1 / (2 * how.beta)) ** 2


@_loss()
def sigmoid_norm(pair: Pair, how: How) -> Values:
    """DPO of the margin for each token."""
    return -_log_sigmoid(how.beta * pair.mean_margin)


@_loss()
def apo_zero(pair: Pair, how: How) -> Values:
    """Makes the better answer more likely and the worse one less, each by itself. arXiv 2408.06266."""
    return 1 - (how.beta * pair.chosen.ratios).sigmoid() + (how.beta * pair.rejected.ratios).sigmoid()


@_loss()
def apo_down(pair: Pair, how: How) -> Values:
    """Makes both less likely, the worse one more so: for models that are better than both. arXiv 2408.06266."""
    return (how.beta * pair.chosen.ratios).sigmoid() + 1 - (how.beta * pair.margin).sigmoid()


@_loss()
def bco_pair(pair: Pair, how: How) -> Values:
    """Tells better from worse answers, each by itself, without a shift, as TRL has it now. arXiv 2404.04656."""
    return -_log_sigmoid(how.beta * pair.chosen.ratios) - _log_sigmoid(-how.beta * pair.rejected.ratios)


@_loss()
def bco_pair_delta(pair: Pair, how: How) -> Values:
    """The same, shifted by the mean reward of all earlier steps, as InternVL's MPO was trained. arXiv 2411.10442."""
    chosen, rejected = (how.beta * each.ratios - how.delta for each in pair)
    return -_log_sigmoid(chosen) - _log_sigmoid(-rejected)


@_loss()
def nca_pair(pair: Pair, how: How) -> Values:
    """Noise-contrastive alignment of two answers. arXiv 2402.05369."""
    chosen, rejected = (how.beta * each.ratios for each in pair)
    return -_log_sigmoid(chosen) - 0.5 * _log_sigmoid(-chosen) - 0.5 * _log_sigmoid(-rejected)


@_loss()
def sppo_hard(pair: Pair, how: How) -> Values:
    """Self-play with a judge that is sure. arXiv 2405.00675."""
    half = 0.5 / how.beta
    return (pair.chosen.ratios - half) ** 2 + (pair.rejected.ratios + half) ** 2


@_loss()
def exo_pair(pair: Pair, how: How) -> Values:
    """Reverse divergence from the preference, which needs ``label_smoothing`` above 0. arXiv 2402.00856."""
    logits, share = how.beta * pair.margin, how.label_smoothing
    right = logits.sigmoid() * (_log_sigmoid(logits) - math.log(1 - share))
    return right + (-logits).sigmoid() * (_log_sigmoid(-logits) - math.log(share))


@_loss()
def discopop(pair: Pair, how: How) -> Values:
    """A mixture of logistic and exponential loss by the margin, found by search. arXiv 2406.08414."""
    logits = how.beta * pair.margin
    share = (logits / how.discopop_tau).sigmoid()
    return -_log_sigmoid(logits) * (1 - share) + (-logits).exp() * share


@_loss(needs_reference=False)
def simpo(pair: Pair, how: How) -> Values:
    """Without a reference: the margin for each token, above ``simpo_gamma``. arXiv 2405.14734."""
    return -_log_sigmoid(how.beta * (pair.chosen.means - pair.rejected.means) - how.simpo_gamma)


@_loss(needs_reference=False)
def cpo(pair: Pair, how: How) -> Values:
    """Without a reference: DPO of the log-probabilities themselves; with ``nll=1`` as published. arXiv 2401.08417."""
    return -_log_sigmoid(how.beta * (pair.chosen.sums - pair.rejected.sums))


@_loss(needs_reference=False)
def orpo(pair: Pair, how: How) -> Values:
    """Without a reference: the odds of a token of the better answer against the worse one. arXiv 2403.07691.

    As published with ``nll=1``, and a weight of 0.1, the paper's lambda, on this.
    """
    better, worse = pair.chosen.means, pair.rejected.means
    odds = (better - worse) - ((-better.exp()).log1p() - (-worse.exp()).log1p())
    return -_log_sigmoid(odds)


@_loss(of="answer")
def apo_zero_unpaired(answer: Answer, signs: Tensor, how: How) -> Values:
    """Of single answers: makes one marked as desirable more likely, any other less. arXiv 2408.06266.

    KTO (arXiv 2402.01306) without its ``z0``, which couples each record to others of its batch.

    Args:
        answer: The answers.
        signs: (N,), 1 for a desirable answer, -1 for another one.
        how: The numbers.
    """
    return 1 - (signs * how.beta * answer.ratios).sigmoid()
