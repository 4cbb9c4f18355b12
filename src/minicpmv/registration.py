"""Makes transformers' Auto classes load MiniCPM-V directories with this package's code, never with code found in them."""

from __future__ import annotations

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText

from minicpmv.models.checkpoint import register_conversions
from minicpmv.models.configuration import MiniCPMVConfig
from minicpmv.models.modeling import MiniCPMVForConditionalGeneration

__all__ = ["register"]


def register() -> None:
    """Register config, models, tokenizer and processors; calling it again changes nothing."""
    register_conversions()
    AutoConfig.register(MiniCPMVConfig.model_type, MiniCPMVConfig, exist_ok=True)
    for auto_class in (AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText):
        auto_class.register(MiniCPMVConfig, MiniCPMVForConditionalGeneration, exist_ok=True)
