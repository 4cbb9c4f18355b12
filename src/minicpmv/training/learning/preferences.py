"""The loss of a run with compared answers: asks the model and the reference, and adds up what is logged.

What the loss is of, ``minicpmv.objectives`` says. The reference's log-probabilities come with the batch, or from the
model with its adapter switched off. Sums stay on the device until they are logged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from minicpmv.errors import NotFiniteError
from minicpmv.models.networks.layout import Layout
from minicpmv.objectives.losses import How
from minicpmv.objectives.preference import SUMS, BatchLoss, Preference, describe_sums
from minicpmv.training.distributed.console import notice
from minicpmv.training.distributed.processes import add_up
from minicpmv.training.flags.declarations import RunArguments

__all__ = ["AtStart", "MeanReward", "PreferenceLoss", "log_probs_of", "switched_off"]

_OF_PREFERENCES = ("reference_log_probs", "answer_keys", "label_weights")
"""What a batch holds that the model does not read."""
_BETA, _BETA_OF_SIMPO = 0.1, 2.0
_EXACT, _ROUNDED = 1e-3, 0.1
"""Nats by which the mean token may differ between the reference's stored value and the model before its first update:
in float32 throughout, and where half precision rounds. Chosen. Measured on a CPU with tiny v2_6: 0 in batches of 4 and
of 8, in packed rows and in full, in float32 as in bfloat16. Other kernels round otherwise: bfloat16 itself moves the
mean token of tiny models by 0.011 (v2_6) and 0.014 (4.6) from float32."""


def log_probs_of(model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
    """Ask a model for the log-probabilities of a batch's labelled tokens, (M,) float32."""
    inputs = {name: value for name, value in batch.items() if name not in _OF_PREFERENCES}
    return model(**inputs, return_log_probs=True)["log_probs"]


class MeanReward(TrainerCallback, ExportableState):
    """The rewards of all earlier steps, over all processes. A checkpoint keeps them."""

    def __init__(self) -> None:
        self.total = 0.0
        self.number = 0.0

    @property
    def mean(self) -> float:
        """Their mean; 0 before the first step."""
        return self.total / self.number if self.number else 0.0

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps, in the form that transformers restores callbacks from."""
        return {"args": {}, "attributes": {"total": self.total, "number": self.number}}


class PreferenceLoss(TrainerCallback):
    """Computes the loss of batches with compared answers.

    Args:
        preference: What is optimised.
        asks_base: Whether the reference is the model with its adapter switched off.
        is_exact: Whether the run computes in float32 throughout.
        may_lack_reference: Whether a batch may come without the reference's values, in whose place the model's own
            stand: in a dry run.
    """

    def __init__(
        self,
        preference: Preference,
        *,
        asks_base: bool = False,
        is_exact: bool = True,
        may_lack_reference: bool = False,
    ) -> None:
        self.preference = preference
        self._asks_base = asks_base
        self._bound = _EXACT if is_exact else _ROUNDED
        self._may_lack_reference = may_lack_reference
        self._is_untrained = False
        self._sums: Tensor | None = None
        """Of this process since the last log entry."""
        self._of_step: Tensor | None = None
        """[2] rewards and their number in this step on this process, for ``bco_pair_delta``."""
        self._has_warned = False
        self.mean_reward: Callable[[], MeanReward] = MeanReward
        """Returns the rewards of earlier steps; transformers replaces the object when it resumes from a checkpoint."""

    @classmethod
    def of_run(cls, run: RunArguments, args: TrainingArguments) -> PreferenceLoss | None:
        """Make what the flags ask for; None where answers are learned as they are."""
        mixture = run.mixture
        if mixture is None:
            return None
        default = _BETA_OF_SIMPO if mixture.names == ("simpo",) else _BETA
        how = How(
            beta=default if run.beta is None else run.beta,
            label_smoothing=run.label_smoothing,
            simpo_gamma=run.simpo_gamma,
            discopop_tau=run.discopop_tau,
        )
        return cls(
            Preference(mixture=mixture, how=how, normalises_weights=run.normalise_segments),
            asks_base=mixture.needs_reference and not run.precompute_ref_log_probs,
            is_exact=not (args.bf16 or args.fp16 or args.tf32 or run.q_lora),
            may_lack_reference=run.dry_run or not mixture.needs_reference,
        )

    # -------------------------------------------------------------------------------------------------------- numbers

    def count(self, layouts: list[Layout]) -> Tensor:
        """Count what the losses of a step are divided by, on this process: (2,) float32 on the CPU."""
        return torch.tensor([self.preference.count(layout) for layout in layouts]).sum(dim=0)

    def of_batch(self, model: nn.Module, live_model: Any, batch: Mapping[str, Any]) -> BatchLoss:
        """Compute the losses of a batch, not divided yet.

        Args:
            model: What a step calls.
            live_model: The same without an engine around it.
            batch: From a collator of compared answers, on the device.

        Raises:
            NotFiniteError: Before the first update, the model is not the reference.
        """
        layout: Layout = batch["layout"]
        reference_M = batch.get("reference_log_probs")
        if self._asks_base:
            with switched_off(live_model), torch.no_grad():
                reference_M = log_probs_of(live_model, batch)
        log_probs_M = log_probs_of(model, batch)
        if reference_M is None and any(layout.ranks) and self.preference.mixture.needs_reference:
            assert self._may_lack_reference, "the data set has refused what has no value"
            reference_M = log_probs_M.detach()
        if reference_M is not None and self._is_untrained and model.training:
            self._compare(log_probs_M.detach(), reference_M)
        weights = batch.get("label_weights")
        weights_M = None
        if weights is not None and layout.label_places is not None:
            weights_M = weights.float().flatten().index_select(0, layout.label_places)
        delta = self.mean_reward().mean
        return self.preference.loss_of(log_probs_M, layout, reference_M=reference_M, weights_M=weights_M, delta=delta)

    def _compare(self, log_probs_M: Tensor, reference_M: Tensor) -> None:
        """Make sure that the margin of a model that has learned nothing is 0 within rounding."""
        found = float((log_probs_M - reference_M).abs().mean()) if len(log_probs_M) else 0.0
        if not found <= self._bound:
            raise NotFiniteError(
                f"step 1: found log-probabilities that differ from the reference's by {found:.3g} nats a token before "
                f"anything was trained, expected at most {self._bound:g}: both are the same model\n"
                "  fix: train with another --reference_cache; if that helps, this one holds another model's values"
            )

    def note(self, found: BatchLoss) -> None:
        """Add a trained batch to what is logged next."""
        self._sums = found.sums if self._sums is None else self._sums + found.sums
        if "bco_pair_delta" in self.preference.mixture.names:
            named = dict(zip(SUMS, found.sums, strict=True))
            added = torch.stack(
                [named["rewards_chosen"] + named["rewards_rejected"], named["chosen"] + named["rejected"]]
            )
            self._of_step = added if self._of_step is None else self._of_step + added

    def read(self, step: int) -> dict[str, float]:
        """Return the numbers of all batches since the last call, over all processes, which must all call it.

        Args:
            step: For a warning.
        """
        if self._sums is None:
            return {}
        sums = dict(zip(SUMS, add_up(self._sums.clone()).tolist(), strict=True))
        self._sums = None
        told = describe_sums(sums, self.preference.mixture)
        told.pop("loss", None)  # transformers' own, in which each step counts alike
        self._warn(told, step)
        return told

    def describe(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Return the numbers of an evaluation."""
        return describe_sums(sums, self.preference.mixture)

    def _warn(self, told: Mapping[str, float], step: int) -> None:
        """Say once that both answers have become less likely, which the loss alone does not show."""
        chosen, rejected = told.get("rewards/chosen", 0.0), told.get("rewards/rejected", 0.0)
        if self._has_warned or not self.preference.mixture.needs_reference or told.get("rewards/fallen", 0.0) <= 0.5:
            return
        if chosen < 0 and rejected < 0:
            self._has_warned = True
            notice(
                f"step {step}: better and worse answers have both become less likely than under the reference "
                f"(rewards {chosen:.3g} and {rejected:.3g}; of better ones {told['rewards/fallen']:.0%}). The loss "
                "only compares them: --preference_loss sigmoid,nll=0.1 keeps the better one likely; a larger --beta, "
                "or a smaller --learning_rate, keeps the model near the reference"
            )

    # ------------------------------------------------------------------------------------------------------ callbacks

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Compare with the reference in the first step of a run; later the model has moved away."""
        model: nn.Module = kwargs["model"]
        drops = any(isinstance(module, nn.Dropout) and module.p > 0 for module in model.modules())
        is_quiet = not args.neftune_noise_alpha and not drops
        self._is_untrained = state.global_step == 0 and is_quiet

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Add the step's rewards to the mean that the next one subtracts, where a loss does so."""
        self._is_untrained = False
        if self._of_step is not None:
            rewards, number = add_up(self._of_step.clone()).tolist()
            known = self.mean_reward()
            known.total, known.number, self._of_step = known.total + rewards, known.number + number, None


@dataclass
class AtStart(TrainerCallback):
    """Calls ``act`` before the first step of a run, new or resumed."""

    act: Callable[[], None]

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Act once engine and weights are as the first step finds them."""
        self.act()


@contextmanager
def switched_off(model: Any) -> Iterator[None]:
    """Leave out a model's adapter, and all randomness."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with model.disable_adapter():
            yield
    finally:
        for module, is_training in modes:
            module.training = is_training
