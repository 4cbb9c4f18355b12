"""What rounding takes of a training when its result is saved in fewer bits than it was trained in.

Half precision has some three significant digits. An update that is smaller than half a step between two neighbouring
numbers vanishes when it is rounded to the nearest one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minicpmv.models.checkpoints.own_tensors import OwnTensors
from minicpmv.training.learning.parts import part_of, parts_of

__all__ = ["ENOUGH", "NOTHING", "Kept", "describe_kept", "measure_kept", "round_stochastically", "warn_of_loss"]

ENOUGH = 0.9
"""Share of a part's change below which the run warns."""
NOTHING = 0.01
"""Share below which nothing has survived. It is not 0: values of 0, as of biases, keep the smallest updates."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What of the change of a part is still there once it is rounded."""

    kept: float
    """``<r - b, w - b> / <w - b, w - b>`` with b before training, w after it and r rounded: how far the rounded weights
    have gone in the direction of the change. To first order the loss has gone as far. Above 1 where more is rounded up
    than away."""
    error: float
    """``|r - w| / |w - b|``: the size of what rounding adds, in any direction, beside that of the change."""


def measure_kept(
    trained: Mapping[str, Tensor], saved: Mapping[str, Tensor], base: Path, skeleton: Any
) -> dict[str, Kept]:
    """Compare what is saved with what was trained, part by part, reading one tensor of the base at a time.

    Args:
        trained: What was trained, as it is after training, by the model's own names.
        saved: The same, rounded.
        base: The checkpoint that training started from.
        skeleton: Its model, without weights.

    Returns:
        By the part's name; parts that have not changed are left out.

    Raises:
        CheckpointError: The base is not there any more.
    """
    before, parts = OwnTensors(base, skeleton), parts_of(skeleton)
    sums: dict[str, Tensor] = {}
    for name, tensor in trained.items():
        if name not in before.homes or not tensor.is_floating_point():  # one of two names of a tied weight
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
    """Say in one line how much of the change is saved."""
    parts = ", ".join(f"{part} {each.kept:.1%}" for part, each in found.items())
    return f"Saved in {_name(dtype)}, in which rounding keeps of what was learnt: {parts}"


def warn_of_loss(found: Mapping[str, Kept], dtype: torch.dtype) -> str | None:
    """Say which parts lose too much and what to do; None if none does."""
    lost = [part for part, each in found.items() if each.kept < ENOUGH]
    if not lost:
        return None
    return (
        f"{', '.join(lost)}: less than {ENOUGH:.0%} of what was learnt is left in {_name(dtype)}, because updates are "
        "smaller than the distance of neighbouring numbers; what is loaded answers otherwise than what was trained. "
        "--save_dtype float32 keeps all of it, in twice the room; --save_rounding stochastic keeps the precision and "
        "all of it on average. With --resume_from_checkpoint true either is saved from the last checkpoint"
    )


def round_stochastically(tensor: Tensor, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Round each value to one of its two neighbours, the nearer the likelier, so that the mean is the value itself.

    Args:
        tensor: float32, on the CPU.
        dtype: float16 or bfloat16.
        generator: Where the random numbers come from.
    """
    nearest = tensor.to(dtype)
    left = tensor - nearest.float()
    # Numbers of one sign have the order of their bits: the next one away from zero has one more, towards it one less.
    is_outward = (left > 0) == (nearest > 0)
    bits = nearest.view(torch.int16)
    smallest = torch.where(left > 0, 1, -(2**15) + 1).to(torch.int16)  # the neighbours of zero
    other = torch.where(nearest == 0, smallest, bits + torch.where(is_outward, 1, -1).to(torch.int16)).view(dtype)
    distance = (other.float() - nearest.float()).abs()
    share = torch.where(distance > 0, left.abs() / distance, 0.0)
    moves = torch.rand(tensor.shape, generator=generator) < share
    return torch.where(moves & (left != 0) & other.isfinite(), other, nearest)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
