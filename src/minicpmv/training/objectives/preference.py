"""Prefers one answer to another: DPO and its kin, the losses of ``minicpmv.losses.preference``.

The reference's log-probabilities come with the batch, or from the model with its adapter switched off. Sums stay on the
device until they are logged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainingArguments

from minicpmv.data.samples.answer_scores import KnownScores
from minicpmv.errors import NotFiniteError
from minicpmv.losses.batch import SUMS, BatchLoss, PreferenceLoss, describe_sums
from minicpmv.losses.preference import How
from minicpmv.models.networks.layout import Layout
from minicpmv.training.distributed.console import notice
from minicpmv.training.distributed.processes import add_up, take_maximum
from minicpmv.training.flags.declarations import RunArguments
from minicpmv.training.objectives.objective import Batch, Objective, Start, log_probs_of
from minicpmv.training.objectives.reference_values import find_scores, score_missing

__all__ = ["Preference", "make_preference"]

_BETA, _BETA_OF_SIMPO = 0.1, 2.0
_EXACT, _ROUNDED = 1e-3, 0.1
"""Nats by which the mean token may differ between the reference's stored value and the model before its first update:
in float32 throughout, and where half precision rounds. Chosen. Measured on a CPU with tiny v2_6: 0 in batches of 4 and
of 8, in packed rows and in full, in float32 as in bfloat16. Other kernels round otherwise: bfloat16 itself moves the
mean token of tiny models by 0.011 (v2_6) and 0.014 (4.6) from float32."""


def make_preference(run: RunArguments, args: TrainingArguments, model: Any) -> Preference:
    """Make what the flags ask for.

    Args:
        run: The flags.
        args: Precision and engine.
        model: The model as the run starts, before an engine or a checkpoint changes it.

    Raises:
        UsageError: The folder of stored values cannot be made.
    """
    mixture = run.mixture
    assert mixture is not None, "--objective dpo has losses"
    default = _BETA_OF_SIMPO if mixture.names == ("simpo",) else _BETA
    how = How(
        beta=default if run.beta is None else run.beta,
        label_smoothing=run.label_smoothing,
        simpo_gamma=run.simpo_gamma,
        discopop_tau=run.discopop_tau,
    )
    return Preference(
        PreferenceLoss(mixture=mixture, how=how, normalises_weights=run.normalise_segments),
        scores=find_scores(run, model, args),
        asks_base=mixture.needs_reference and not run.precompute_ref_log_probs,
        has_new_adapter=_has_new_adapter(run),
        is_exact=not (args.bf16 or args.fp16 or args.tf32 or run.q_lora),
        may_lack_reference=run.dry_run or not mixture.needs_reference,
    )


def _has_new_adapter(run: RunArguments) -> bool:
    """Whether the model without its adapter is the one that the run starts from."""
    return run.use_lora and not run.lora_weight_path and not run.changes_base and run.lora_bias == "none"


class Preference(Objective):
    """Computes the loss of batches with compared answers.

    Args:
        loss: What is optimised.
        scores: Where the reference's values of answers are kept; those that are missing are computed before the first
            step. None where none are kept.
        asks_base: Whether the reference is the model with its adapter switched off, asked in every step.
        has_new_adapter: Whether the model without its adapter is the reference, at any step.
        is_exact: Whether the run computes in float32 throughout.
        may_lack_reference: Whether a batch may come without the reference's values, in whose place the model's own
            stand: in a dry run.
    """

    compares_answers = True

    def __init__(
        self,
        loss: PreferenceLoss,
        *,
        scores: KnownScores | None = None,
        asks_base: bool = False,
        has_new_adapter: bool = False,
        is_exact: bool = True,
        may_lack_reference: bool = False,
    ) -> None:
        self._loss = loss
        self._scores = scores
        self._asks_base = asks_base
        self._has_new_adapter = has_new_adapter
        self._bound = _EXACT if is_exact else _ROUNDED
        self._may_lack_reference = may_lack_reference
        self._bare: nn.Module | None = None
        """The model without an engine around it."""
        self._is_untrained = False
        self._sums: Tensor | None = None
        """Of this process since the last log entry."""
        self._of_step: Tensor | None = None
        """[2] rewards and their number in this step on this process, for ``bco_pair_delta``."""
        self._rewards = [0.0, 0.0]
        """Sum and number of the rewards of all earlier steps, over all processes."""
        self._has_warned = False

    # ---------------------------------------------------------------------------------------------------------- losses

    def count(self, layouts: Sequence[Layout]) -> Tensor:
        """Count pairs, or single answers, and tokens of better answers, shape (2,)."""
        return torch.tensor([self._loss.count(layout) for layout in layouts]).sum(dim=0)

    def loss(self, model: nn.Module, batch: Batch, total: Tensor) -> Tensor:
        """Divide the losses by the pairs of the whole step, and the supervised one by its tokens; return a scalar.

        Raises:
            NotFiniteError: Before the first update, the model is not the reference.
        """
        found = self._of_batch(model, batch, is_first=self._is_untrained)
        self._note(found)
        return self._loss.divide(found, total.to(found.sums.device, non_blocking=True))

    def measure(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the sums that ``SUMS`` names, shape (K,)."""
        return self._of_batch(model, batch).sums

    def describe(self, sums: Sequence[float]) -> dict[str, float]:
        """Name the numbers as TRL does."""
        return describe_sums(dict(zip(SUMS, sums, strict=True)), self._loss.mixture)

    def _of_batch(self, model: nn.Module, batch: Batch, *, is_first: bool = False) -> BatchLoss:
        """Compute the losses of a batch, not divided yet."""
        layout: Layout = batch["layout"]
        reference_M = batch.get("reference_log_probs")
        if self._asks_base:
            assert self._bare is not None, "a run has begun"
            with _asked(self._bare, without_adapter=True), torch.no_grad():
                reference_M = log_probs_of(self._bare, batch)
        log_probs_M = log_probs_of(model, batch)
        if reference_M is None and any(layout.ranks) and self._loss.mixture.needs_reference:
            assert self._may_lack_reference, "the data set has refused what has no value"
            reference_M = log_probs_M.detach()
        if is_first:
            self._compare(model, batch, log_probs_M.detach(), reference_M)
        weights = batch.get("label_weights")
        weights_M = None
        if weights is not None and layout.label_places is not None:
            weights_M = weights.float().flatten().index_select(0, layout.label_places)
        total, number = self._rewards
        return self._loss.loss_of(
            log_probs_M,
            layout,
            reference_M=reference_M,
            weights_M=weights_M,
            delta=total / number if number else 0.0,
        )

    # ------------------------------------------------------------------------------------------------------- reference

    def begin(self, start: Start) -> None:
        """Have the reference score every answer that it has not scored yet."""
        self._bare = start.model
        self._is_untrained = start.step == 0 and self._loss.mixture.needs_reference
        if self._scores is None:
            return
        with start.asking() as model, _asked(model, without_adapter=self._has_new_adapter):
            score_missing(
                self._scores,
                start.datasets,
                ask=lambda batch: start.compute(lambda inputs: log_probs_of(model, inputs), batch),
                load=start.load,
                capacity=max(int(each.lengths.max()) for each in start.datasets),
                args=start.args,
                has_moved=start.step > 0 and not self._has_new_adapter,
            )

    def _compare(self, model: nn.Module, batch: Batch, log_probs_M: Tensor, reference_M: Tensor | None) -> None:
        """Make sure that the margin of a model that has learned nothing is 0 within rounding.

        In training, dropout and noise may move it: an adapter to continue from brings its own. So where it is not 0 the
        model is asked once more, without them, by all processes together.
        """
        if self._is_far(log_probs_M, reference_M) is None:
            return
        with _asked(model), torch.no_grad():
            found = self._is_far(log_probs_of(model, batch), reference_M)
        if found is not None:
            raise NotFiniteError(
                f"step 1: found log-probabilities that differ from the reference's by {found:.3g} nats a token before "
                f"anything was trained, expected at most {self._bound:g}: both are the same model\n"
                "  fix: train with another --reference_cache; if that helps, this one holds another model's values"
            )

    def _is_far(self, log_probs_M: Tensor, reference_M: Tensor | None) -> float | None:
        """Return the mean difference of a token, of the process where it is largest; None if it is within the bound."""
        difference = log_probs_M.new_zeros(())
        if reference_M is not None and len(log_probs_M):
            difference = (log_probs_M - reference_M).abs().mean()
        found = float(take_maximum(difference.nan_to_num(nan=torch.inf, posinf=torch.inf)))
        return None if found <= self._bound else found

    # --------------------------------------------------------------------------------------------------------- numbers

    def _note(self, found: BatchLoss) -> None:
        """Add a trained batch to what is logged next."""
        self._sums = found.sums if self._sums is None else self._sums + found.sums
        if "bco_pair_delta" in self._loss.mixture.names:
            named = dict(zip(SUMS, found.sums, strict=True))
            added = torch.stack(
                [named["rewards_chosen"] + named["rewards_rejected"], named["chosen"] + named["rejected"]]
            )
            self._of_step = added if self._of_step is None else self._of_step + added

    def read(self, step: int) -> dict[str, float]:
        """Return the numbers of all batches since the last call, by TRL's names."""
        if self._sums is None:
            return {}
        found = self.describe(add_up(self._sums.clone()).tolist())
        self._sums = None
        found.pop("loss", None)  # transformers' own, in which each step counts alike
        self._warn(found, step)
        return found

    def end_step(self) -> None:
        """Add the step's rewards to the mean that the next one subtracts, where a loss does so."""
        self._is_untrained = False
        if self._of_step is not None:
            added = add_up(self._of_step.clone()).tolist()
            self._rewards = [known + more for known, more in zip(self._rewards, added, strict=True)]
            self._of_step = None

    def state(self) -> dict[str, float]:
        """Return the rewards of all earlier steps."""
        total, number = self._rewards
        return {"total": total, "number": number}

    def restore(self, state: Mapping[str, float]) -> None:
        """Go on with them."""
        self._rewards = [state["total"], state["number"]]

    def _warn(self, found: Mapping[str, float], step: int) -> None:
        """Say once that both answers have become less likely, which the loss alone does not show."""
        chosen, rejected = found.get("rewards/chosen", 0.0), found.get("rewards/rejected", 0.0)
        if self._has_warned or not self._loss.mixture.needs_reference or found.get("rewards/fallen", 0.0) <= 0.5:
            return
        if chosen < 0 and rejected < 0:
            self._has_warned = True
            notice(
                f"step {step}: better and worse answers have both become less likely than under the reference "
                f"(rewards {chosen:.3g} and {rejected:.3g}; of better ones {found['rewards/fallen']:.0%}). The loss "
                "only compares them: --preference_loss sigmoid,nll=0.1 keeps the better one likely; a larger --beta, "
                "or a smaller --learning_rate, keeps the model near the reference"
            )


@contextmanager
def _asked(model: Any, *, without_adapter: bool = False) -> Iterator[None]:
    """Leave out all randomness of a model, and its adapter where that is asked for."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with model.disable_adapter() if without_adapter else nullcontext():
            yield
    finally:
        for module, is_training in modes:
            module.training = is_training
