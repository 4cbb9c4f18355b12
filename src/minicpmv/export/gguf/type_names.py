"""The number formats that an export can write, by name: for the command line, which lists them without torch."""

from __future__ import annotations

__all__ = ["LLAMA_QUANTIZE_TYPES", "OWN_TYPES", "VISION_TYPES"]

OWN_TYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0")
"""Types that this package writes."""

LLAMA_QUANTIZE_TYPES = (
    "q6_k", "q5_k_m", "q5_k_s", "q4_k_m", "q4_k_s", "q3_k_l", "q3_k_m", "q3_k_s", "q2_k", "iq4_nl", "iq4_xs",
)  # fmt: skip
"""Types that llama-quantize writes without measurements of the model (an importance matrix)."""

VISION_TYPES = ("f32", "f16", "bf16", "q8_0")
"""For tower and resampler, whose few weights are worth their precision."""
