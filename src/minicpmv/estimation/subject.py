"""Reads the run to estimate: its settings, resolved as by the run itself, and its model without weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from minicpmv.machine.value import Machine
from minicpmv.models.skeleton import build_skeleton
from minicpmv.training.flags.arguments import parse_arguments
from minicpmv.training.flags.declarations import RunArguments
from minicpmv.training.flags.resolution import resolve_settings
from minicpmv.training.inputs.base_checkpoint import BaseCheckpoint, check_weights, open_base
from minicpmv.training.learning.lora import add_lora
from minicpmv.training.learning.parts import choose_trained_parts
from minicpmv.training.learning.switches import resolve_learning

__all__ = ["Subject", "build_model", "read_subject"]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A run to estimate."""

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


def read_subject(
    arguments: Sequence[str], *, machine: Machine, num_devices: int, optimizer: str | None = None
) -> Subject:
    """Resolve a run's settings, up to what needs weights.

    Args:
        arguments: Flags of a training run.
        machine: The machine that it would run on.
        num_devices: Number of devices, with one process each.
        optimizer: Replaces ``--optim``, whether or not its package is installed here.

    Raises:
        MiniCPMVError: Training would refuse the flags or the model.
    """
    request = parse_arguments(arguments)
    if optimizer is not None:
        others = {name: value for name, value in request.training.items() if name != "optim"}
        request = replace(request, training=others)
    resolved = resolve_settings(request, replace(machine, num_processes=num_devices))
    settings = resolved.training if optimizer is None else {**resolved.training, "optim": optimizer}
    run = _without_file_name(resolved.run)
    base = open_base(run)
    if optimizer is None:
        check_weights(base.config, run)
    run, _ = resolve_learning(run, build_skeleton(base.path), given=request.given)
    return Subject(base=base, run=run, settings=settings, num_devices=num_devices)


def _without_file_name(run: RunArguments) -> RunArguments:
    """Accept ``config.json`` as the name of its directory."""
    path = Path(run.model_name_or_path)
    if path.name == "config.json" and path.is_file():
        return replace(run, model_name_or_path=str(path.parent))
    return run


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
