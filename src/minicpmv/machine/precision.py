"""Decides the precision that a machine computes in: the fastest that its hardware has, never one that it emulates."""

from __future__ import annotations

from typing import Literal

from minicpmv.machine.value import Accelerator, Choice, Machine

__all__ = ["Precision", "emulates_bf16", "precision", "precision_of"]

Precision = Literal["bf16", "fp16", "fp32"]

_BF16 = (8, 0)  # Ampere. On older cards torch emulates bfloat16, and still calls it supported
_BEST_FIRST: tuple[Precision, ...] = ("bf16", "fp16", "fp32")


def precision(machine: Machine) -> Choice[Precision]:
    """Choose the precision of a whole run, which all its accelerators must support."""
    if not machine.accelerators:
        return Choice("fp32", "there is no GPU, and float32 is the safe choice on a CPU")
    chosen = [precision_of(accelerator) for accelerator in machine.accelerators]
    return max(chosen, key=lambda each: _BEST_FIRST.index(each.value))


def precision_of(accelerator: Accelerator) -> Choice[Precision]:
    """Choose the precision of one accelerator."""
    name = accelerator.name
    if accelerator.kind == "rocm":
        return Choice("bf16", f"{name} is AMD's, and those that torch supports have bfloat16")
    if accelerator.kind != "cuda" or accelerator.capability is None:
        return Choice("fp32", f"{name} is untested here, and every device has float32")
    shown = "{}.{}".format(*accelerator.capability)
    if accelerator.capability < _BF16:
        return Choice("fp16", f"{name}, of compute capability {shown}, has no bfloat16, which begins with 8.0")
    return Choice("bf16", f"{name}, of compute capability {shown}, has bfloat16")


def emulates_bf16(accelerator: Accelerator) -> bool:
    """Return whether an accelerator runs bfloat16 only by slow emulation."""
    return accelerator.kind == "cuda" and precision_of(accelerator).value == "fp16"
