"""Decides which attention kernel an accelerator gets, from its maker and compute capability."""

from __future__ import annotations

from typing import Literal

from minicpmv.machine.value import Accelerator, Choice

__all__ = ["AttentionKernel", "attention_kernel"]

AttentionKernel = Literal["variable-length", "probe", "sdpa"]
"""``probe``: the variable-length kernel, if one call of it is right; ``sdpa``: torch's own choice for each length."""

_FLASH = (8, 0)  # Ampere. On older cards torch's variable-length kernel raises an error in every precision


def attention_kernel(accelerator: Accelerator) -> Choice[AttentionKernel]:
    """Choose the attention kernel for half precision; other precisions always use torch's own choice."""
    if accelerator.kind == "rocm":
        return Choice("probe", "AMD's variable-length kernel is untested here, so one trial call decides")
    if accelerator.kind != "cuda" or accelerator.capability is None:
        return Choice("sdpa", "torch has a variable-length kernel for CUDA and ROCm only")
    if accelerator.capability < _FLASH:
        found = "{}.{}".format(*accelerator.capability)
        return Choice("sdpa", f"the variable-length kernel needs compute capability 8.0, and this is {found}")
    return Choice("variable-length", "one kernel serves sequences of all lengths")
