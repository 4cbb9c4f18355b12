"""Which layers forget their activations and compute them again in the backward pass: the language model's, the tower's.

transformers switches all of them at once, with ``--activation_checkpointing``; here each part can have its own answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.modeling_layers import GradientCheckpointingLayer

from minicpmv.training.flags.declarations import RunArguments
from minicpmv.training.learning.parts import part_of, parts_of

__all__ = [
    "RecomputedLayers",
]


@dataclass(frozen=True, kw_only=True)
class RecomputedLayers(TrainerCallback):
    """Switches recomputation off again in the part that was not meant, after transformers has switched it on in all."""

    llm: bool
    vision: bool

    @classmethod
    def of_run(cls, run: RunArguments) -> RecomputedLayers:
        """Read the flags; both are settled."""
        return cls(llm=bool(run.llm_activation_checkpointing), vision=bool(run.vision_activation_checkpointing))

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Switch recomputation off in the layers that keep their activations; transformers switches all on."""
        model: nn.Module = kwargs["model"]
        parts = parts_of(model)
        learning = {part_of(name, parts) for name, parameter in model.named_parameters() if parameter.requires_grad}
        vision = self.vision and "vision tower" in learning  # a frozen one keeps nothing that could be saved
        for name, module in model.named_modules():
            if isinstance(module, GradientCheckpointingLayer):
                is_vision = part_of(f"{name}.", parts) == "vision tower"
                module.gradient_checkpointing &= vision if is_vision else self.llm
