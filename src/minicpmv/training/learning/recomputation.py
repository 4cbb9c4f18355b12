"""Which layers forget their activations and compute them again in the backward pass: the language model's, the tower's.

transformers switches all of them at once, with ``--activation_checkpointing``; here each part can have its own answer,
or a number of layers that is known when training begins.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.modeling_layers import GradientCheckpointingLayer

from minicpmv.training.flags.declarations import RunArguments
from minicpmv.training.learning.parts import part_of, parts_of

__all__ = ["LLM", "VISION", "RecomputedLayers", "asked_of_parts"]

LLM, VISION = "language model", "vision tower"
"""Names of the parts whose layers can be recomputed."""


def asked_of_parts(run: RunArguments) -> dict[str, bool | str]:
    """Read the flags, which are settled: whether each part is recomputed, or ``auto``."""
    asked = {LLM: run.llm_activation_checkpointing, VISION: run.vision_activation_checkpointing}
    return {part: is_on or False for part, is_on in asked.items()}


@dataclass(frozen=True, kw_only=True)
class RecomputedLayers(TrainerCallback):
    """Switches recomputation off again in the layers that were not meant, after transformers has switched it on in all.

    Args:
        asked: Of each part, whether it is recomputed, or ``auto``.
        choose: With ``auto``, returns how many layers of each part are, given the optimizer; the first so many.
    """

    asked: Mapping[str, bool | str]
    choose: Callable[[Any], Mapping[str, int]] | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Switch recomputation off in the layers that keep their activations; transformers switches all on."""
        model: nn.Module = kwargs["model"]
        parts = parts_of(model)
        learning = {part_of(name, parts) for name, parameter in model.named_parameters() if parameter.requires_grad}
        chosen = {} if self.choose is None else self.choose(kwargs.get("optimizer"))
        seen: Counter[str] = Counter()
        for name, module in model.named_modules():
            if not isinstance(module, GradientCheckpointingLayer):
                continue
            part = VISION if part_of(f"{name}.", parts) == VISION else LLM
            is_on = seen[part] < chosen[part] if part in chosen else bool(self.asked[part])
            if part == VISION and VISION not in learning:  # a frozen one keeps nothing that could be saved
                is_on = False
            module.gradient_checkpointing &= is_on
            seen[part] += 1
