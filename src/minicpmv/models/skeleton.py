"""Builds a model without weights, to look at its modules."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import PreTrainedModel

from minicpmv.models.configuration import MiniCPMVConfig
from minicpmv.models.modeling import MiniCPMVForConditionalGeneration

__all__ = ["build_skeleton"]


def build_skeleton(base: Path) -> PreTrainedModel:
    """Build a checkpoint's model without weights, to look at its modules: milliseconds, whatever its size."""
    config = MiniCPMVConfig.from_pretrained(base)
    with torch.device("meta"):
        return MiniCPMVForConditionalGeneration(config)
