"""Which layers forget their activations and compute them again in the backward pass: the language model's, the tower's.

transformers switches all of them at once, with ``--activation_checkpointing``; here each part can have its own answer.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.modeling_layers import GradientCheckpointingLayer

from minicpmv.errors import UsageError
from minicpmv.models.siglip import VisionEncoderLayer
from minicpmv.training.arguments import RunArguments
from minicpmv.training.parts import part_of

__all__ = ["RecomputedLayers", "settle_recomputation"]

# transformers 5.20, the last for Python 3.10, has the old name only.
_WHOLE = next(
    name
    for name in ("activation_checkpointing", "gradient_checkpointing")
    if name in {item.name for item in fields(TrainingArguments)}
)


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
        model: nn.Module = kwargs["model"]
        learning = {part_of(name) for name, parameter in model.named_parameters() if parameter.requires_grad}
        vision = self.vision and "vision tower" in learning  # a frozen one keeps nothing that could be saved
        for module in model.modules():
            if isinstance(module, GradientCheckpointingLayer):
                module.gradient_checkpointing &= vision if isinstance(module, VisionEncoderLayer) else self.llm


def settle_recomputation(run: RunArguments, settings: dict[str, Any]) -> None:
    """Decide for each part what its own switch left open, and whether transformers has to switch anything on.

    Args:
        run: The flags, changed in place.
        settings: Keyword arguments for ``TrainingArguments``, changed in place.

    Raises:
        UsageError: There are options for recomputing, and nothing is recomputed.
    """
    whole = bool(settings.get(_WHOLE))
    for name in ("llm_activation_checkpointing", "vision_activation_checkpointing"):
        if getattr(run, name) is None:
            setattr(run, name, whole)
    settings[_WHOLE] = bool(run.llm_activation_checkpointing or run.vision_activation_checkpointing)
    if settings.get(f"{_WHOLE}_kwargs") and not settings[_WHOLE]:
        raise UsageError(
            f"--{_WHOLE}_kwargs: found without --{_WHOLE} true, so nothing would read it\n  fix: add it, or remove "
            "this flag"
        )
