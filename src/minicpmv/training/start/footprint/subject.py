"""States the run to predict, and builds its model without weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from minicpmv.models.skeleton import build_skeleton
from minicpmv.training.flags.declarations import RunArguments
from minicpmv.training.inputs.base_checkpoint import BaseCheckpoint
from minicpmv.training.learning.lora import add_lora
from minicpmv.training.learning.parts import choose_trained_parts

__all__ = ["Subject", "build_model"]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A run to predict."""

    base: BaseCheckpoint
    run: RunArguments
    settings: Mapping[str, Any]
    """Keyword arguments for ``TrainingArguments``."""
    num_devices: int

    @property
    def half(self) -> torch.dtype | None:
        """The precision of matrix products; None in float32."""
        return torch.bfloat16 if self.settings.get("bf16") else torch.float16 if self.settings.get("fp16") else None

    @property
    def base_dtype(self) -> torch.dtype:
        """The precision that weights are loaded in, as :func:`load_base` does."""
        return self.half or torch.float32 if self.settings.get("deepspeed") or self.run.use_lora else torch.float32

    @property
    def packs_weights(self) -> bool:
        """Return whether the language model's layers are quantized to 4 bits."""
        return self.run.q_lora or bool(self.base.config.get("quantization_config"))


def build_model(subject: Subject) -> Any:
    """Build the model as it would be trained, wrapped by PEFT or not, on the ``meta`` device."""
    model: Any = build_skeleton(subject.base.path, downsample_mode=subject.run.downsample_mode)
    model = model.to(subject.base_dtype)
    if not subject.run.use_lora:
        choose_trained_parts(model, subject.run)
        return model
    # Matrices of a new adapter's size; their initialisation would need weights, and changes no size.
    new = replace(subject.run, lora_weight_path=None, init_lora_weights="true")
    with torch.device("meta"):
        return add_lora(model, new, keep_dtype=bool(subject.settings.get("deepspeed")))
