"""Declares the objective, and what learning from better and worse answers needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from minicpmv.data.records.record import Kind
from minicpmv.losses.mixture import Mixture, parse_mixture
from minicpmv.training.flags.fields import NOT_NEGATIVE, POSITIVE, Range, declare

__all__ = ["PreferenceArguments"]


@dataclass(frozen=True, kw_only=True)
class PreferenceArguments:
    """What is optimised."""

    objective: Literal["sft", "dpo"] = declare(
        "sft",
        "What is learned. sft: the answers. dpo: to prefer one answer to another (docs/preference.md), by "
        "--preference_loss.",
        group="Preferences",
        resume="same",
    )
    preference_loss: str | None = declare(
        None,
        "Losses of --objective dpo with their weights: sigmoid=0.8,bco_pair=0.2,nll=1. mpo, cpo and orpo alone are the "
        "published mixtures. Default: sigmoid, which is DPO.",
        group="Preferences",
        resume="same",
    )
    beta: float | None = declare(
        None,
        "How strongly the model is held to the reference; the larger, the closer. Default: 0.1, with simpo 2.",
        group="Preferences",
        resume="same",
        range=POSITIVE,
    )
    label_smoothing: float = declare(
        0.0,
        "Share of pairs assumed to be swapped: of sigmoid (conservative), robust and exo_pair.",
        group="Preferences",
        resume="same",
        range=Range(most=0.5, without_most=True),
    )
    simpo_gamma: float = declare(
        1.0, "Margin that simpo asks for.", group="Preferences", resume="same", range=NOT_NEGATIVE
    )
    discopop_tau: float = declare(0.05, "Temperature of discopop.", group="Preferences", resume="same", range=POSITIVE)
    segment_weight: float = declare(
        1.0,
        "How much the tokens count in which two answers differ; all others count 1 (RLHF-V: 5, or 1.1 in its script).",
        group="Preferences",
        resume="same",
        range=POSITIVE,
    )
    normalise_segments: bool = declare(
        False,
        "Divide the weighted log-probability of an answer by the sum of its weights, as RLHF-V's paper does.",
        group="Preferences",
        resume="same",
    )
    precompute_ref_log_probs: bool = declare(
        True,
        "Compute before the first step what the reference, which is the model as it starts, thinks of each answer, and "
        "keep it. false: ask in every step, with the adapter switched off (LoRA).",
        group="Preferences",
        resume="free",
    )
    reference_cache: str = declare(
        "~/.cache/minicpmv/reference",
        "Folder for that, shared by all runs.",
        group="Preferences",
        resume="free",
    )

    @property
    def mixture(self) -> Mixture | None:
        """The losses of preferences; None where answers are learned as they are.

        Raises:
            UsageError: ``preference_loss`` cannot be read.
        """
        if self.objective == "sft":
            return None
        return parse_mixture(self.preference_loss or "sigmoid", flag="--preference_loss")

    @property
    def kind(self) -> Kind:
        """What the run makes of a record."""
        mixture = self.mixture
        return "conversation" if mixture is None else "answer" if mixture.is_unpaired else "pair"

    @property
    def stores_reference(self) -> bool:
        """Whether answers are scored by the reference before the first step."""
        return self.mixture is not None and self.mixture.needs_reference and self.precompute_ref_log_probs
