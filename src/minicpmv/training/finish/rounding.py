"""Measures how much of the training is lost when its result is rounded to a lower precision for saving.

Half precision has about three significant digits. An update smaller than half the spacing of two neighbouring numbers
vanishes when it is rounded to the nearest one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minicpmv.models.checkpoints.own_tensors import OwnTensors
from minicpmv.training.learning.parts import part_of, parts_of

__all__ = [
    "ENOUGH",
    "NOTHING",
    "Kept",
    "describe_kept",
    "measure_kept",
    "round_as_saved",
    "round_stochastically",
    "warn_of_loss",
]

ENOUGH = 0.9
"""Share of a part's change below which the run warns."""
NOTHING = 0.01
"""Share below which nothing counts as kept. It is not 0: values that were 0, such as biases, keep any update."""


@dataclass(frozen=True, slots=True)
class Kept:
    """The share of a part's change that is left after rounding."""

    kept: float
    """``<r - b, w - b> / <w - b, w - b>`` with b before training, w after it and r rounded: how far the rounded weights
    have moved in the direction of the change, and to first order the loss with them. Above 1 where rounding enlarges
    the change."""
    error: float
    """``|r - w| / |w - b|``: size of the rounding error, in any direction, relative to the change."""


def measure_kept(
    trained: Mapping[str, Tensor], saved: Mapping[str, Tensor], base: Path, skeleton: Any
) -> dict[str, Kept]:
    """Compare the saved with the trained weights, part by part, reading one tensor of the base at a time.

    Args:
        trained: The trained tensors, unrounded, by the model's own names.
        saved: The same tensors, rounded.
        base: The checkpoint that training started from.
        skeleton: Its model, without weights.

    Returns:
        The shares by part; unchanged parts are left out.

    Raises:
        CheckpointError: The base no longer exists.
    """
    before, parts = OwnTensors(base, skeleton), parts_of(skeleton)
    sums: dict[str, Tensor] = {}
    for name, tensor in trained.items():
        if name not in before.homes or not tensor.is_floating_point():  # the second name of a tied weight
            continue
        start = before.read(name)
        rounded = saved[name].to("cpu", torch.float32) - start
        change = tensor.to("cpu", torch.float32) - start
        found = [rounded * change, change * change, (rounded - change) ** 2]
        part = part_of(name, parts)
        added = torch.stack([each.sum(dtype=torch.float64) for each in found])
        sums[part] = sums[part] + added if part in sums else added
    return {
        part: Kept(kept=float(along / size), error=float((wrong / size).sqrt()))
        for part, (along, size, wrong) in sums.items()
        if size > 0
    }


def describe_kept(found: Mapping[str, Kept], dtype: torch.dtype) -> str:
    """Describe in one line how much of the change is saved."""
    parts = ", ".join(f"{part} {each.kept:.1%}" for part, each in found.items())
    return f"Saved in {_name(dtype)}, and rounding keeps this much of the training: {parts}"


def warn_of_loss(found: Mapping[str, Kept], dtype: torch.dtype) -> str | None:
    """Warn of the parts that lose too much, with a fix; None if none does."""
    lost = [part for part, each in found.items() if each.kept < ENOUGH]
    if not lost:
        return None
    return (
        f"{', '.join(lost)}: less than {ENOUGH:.0%} of the training is left in {_name(dtype)}, because updates are "
        "smaller than the spacing of neighbouring numbers, so the saved model answers differently from the trained "
        "one. --save_dtype float32 keeps all of it, in twice the space; --save_rounding stochastic keeps the precision "
        "and, on average, all of it. With --resume_from_checkpoint true either is saved from the last checkpoint"
    )


def round_stochastically(tensor: Tensor, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Round each value to one of its two neighbours, more likely to the nearer, so that the mean is the value itself.

    Args:
        tensor: float32, on the CPU.
        dtype: float16 or bfloat16.
        generator: Source of the random numbers.
    """
    nearest = tensor.to(dtype)
    left = tensor - nearest.float()
    # Numbers of one sign are ordered like their bits: the next one away from zero is one more, towards zero one less.
    is_outward = (left > 0) == (nearest > 0)
    bits = nearest.view(torch.int16)
    smallest = torch.where(left > 0, 1, -(2**15) + 1).to(torch.int16)  # the neighbours of zero
    other = torch.where(nearest == 0, smallest, bits + torch.where(is_outward, 1, -1).to(torch.int16)).view(dtype)
    distance = (other.float() - nearest.float()).abs()
    share = torch.where(distance > 0, left.abs() / distance, 0.0)
    moves = torch.rand(tensor.shape, generator=generator) < share
    return torch.where(moves & (left != 0) & other.isfinite(), other, nearest)


def round_as_saved(model: nn.Module, saved: Mapping[str, str]) -> None:
    """Round the weights of a live model to the nearest value that its files hold, in place and without an exchange.

    Args:
        model: Each process may have pieces of its weights, by FSDP or ZeRO.
        saved: Name of the precision of each tensor in the files, by the model's own names.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            precision = saved.get(name, "float32")
            here = getattr(parameter, "ds_tensor", parameter).data  # ZeRO-3 keeps a process's piece beside it
            if precision != "float32" and here.dtype == torch.float32:
                here.copy_(here.to(getattr(torch, precision)))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
