"""Models of 4.6 and 4.7: transformers' own, joined with pictures, packing and loss as those of the other releases."""

from __future__ import annotations

from transformers import MiniCPMV4_6ForConditionalGeneration as ReleasedModel4_6
from transformers import MiniCPMV4_7ForConditionalGeneration as ReleasedModel4_7

from minicpmv.models.native.configuration import MiniCPMV4_6Config, MiniCPMV4_7Config

__all__ = ["MiniCPMV4_6ForConditionalGeneration", "MiniCPMV4_7ForConditionalGeneration"]


class MiniCPMV4_6ForConditionalGeneration(ReleasedModel4_6):
    """4.6."""

    config_class = MiniCPMV4_6Config


class MiniCPMV4_7ForConditionalGeneration(ReleasedModel4_7):
    """4.7."""

    config_class = MiniCPMV4_7Config
