"""Builds what learns: the base with its trained parts, or with LoRA, and the rate of each part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel, TrainingArguments, set_seed

from minicpmv.training.distributed.engine import tell_reads
from minicpmv.training.distributed.fsdp import choose_units
from minicpmv.training.flags.declarations import RunArguments
from minicpmv.training.inputs.base_checkpoint import load_base
from minicpmv.training.inputs.run_inputs import RunInputs
from minicpmv.training.learning.lora import add_lora
from minicpmv.training.learning.parts import PartSummary, choose_trained_parts, parts_of, summarise_parts
from minicpmv.training.learning.rates import Rates

__all__ = ["Learner", "build_learner"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Learner:
    """A model that learns."""

    model: Any
    """Bare, or wrapped by PEFT."""
    rates: Rates
    parts: Sequence[PartSummary]

    @property
    def trained(self) -> list[str]:
        """Return the names of all weights that learn."""
        return [name for name, parameter in self.model.named_parameters() if parameter.requires_grad]


def build_learner(inputs: RunInputs, run: RunArguments, args: TrainingArguments) -> Learner:
    """Load the base's weights, and choose which learn.

    Raises:
        CheckpointError: Weights are missing, or are not those of the model.
        UsageError: The flags name no weights of this model.
    """
    set_seed(args.seed)  # LoRA matrices are initialised randomly
    model = _build_model(inputs, run, args)
    tell_reads(model)
    rates = Rates.of_run(run, parts_of(model), learning_rate=args.learning_rate, weight_decay=args.weight_decay)
    return Learner(model=model, rates=rates, parts=summarise_parts(model, rates_of=rates.of))


def _build_model(inputs: RunInputs, run: RunArguments, args: TrainingArguments) -> Any:
    model: PreTrainedModel = load_base(inputs.base, run, args)
    if args.fsdp:
        choose_units(args, model)
    if run.use_lora:
        set_seed(args.seed)  # under ZeRO-3 the layers of 4.6 and later draw numbers while they are built
        return add_lora(model, run, keep_dtype=bool(args.deepspeed))
    choose_trained_parts(model, run)
    return model
