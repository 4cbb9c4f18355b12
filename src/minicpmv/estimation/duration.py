"""Predicts how long a step takes: its operations, divided by the share of a device's peak that training reaches."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

from torch import nn

from minicpmv.estimation.workload import Workload
from minicpmv.models.networks.flops import Work, flops_of_each, total_flops
from minicpmv.training.start.footprint.subject import Subject

__all__ = ["DEFAULT_SHARE", "Duration", "estimate_duration"]

DEFAULT_SHARE = 0.35
"""Share of a device's peak. Published values: 35 to 40 % for packed multimodal training (README of lmms-engine), 40.6 %
for LoRA of an 8 B language model on an H100 (NVIDIA NeMo AutoModel, performance summary)."""


class Duration(NamedTuple):
    """Seconds."""

    step: float
    epoch: float | None
    """Seconds of an epoch; None without data."""


def estimate_duration(
    subject: Subject, model: nn.Module, workload: Workload, *, tflops: float, share: float
) -> Duration:
    """Divide operations by speed.

    Args:
        subject: The run.
        model: The model as it would be trained, without weights.
        workload: The work of all devices.
        tflops: Peak of one device.
        share: Share of the peak that is reached, recomputation included.
    """
    config: Any = model.config
    of_each = flops_of_each(config, model.named_parameters(remove_duplicate=False))
    again = _recomputed(subject, config)
    speed = tflops * 1e12 * share * subject.num_devices
    step = (total_flops(of_each, workload.step) + total_flops(again, workload.step)) / speed
    return Duration(step, None if workload.steps is None else step * workload.steps)


def _recomputed(subject: Subject, config: Any) -> Work:
    """Count the operations of the layers that the backward pass recomputes."""
    without_layers = copy.copy(config)
    for part in ("text_config", "vision_config"):
        bare = copy.copy(getattr(config, part))
        bare.num_hidden_layers = 0
        setattr(without_layers, part, bare)
    forward, rest = flops_of_each(config, []), flops_of_each(without_layers, [])
    layers = Work(*(whole - other for whole, other in zip(forward, rest, strict=True)))
    llm = bool(subject.run.llm_activation_checkpointing)
    vision = bool(subject.run.vision_activation_checkpointing and subject.run.tune_vision)
    return Work(
        tokens=layers.tokens * llm,
        token_pairs=layers.token_pairs * llm,
        patches=layers.patches * vision,
        patch_pairs=layers.patch_pairs * vision,
    )
