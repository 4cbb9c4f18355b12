"""Describes a forward pass as a sequence of steps, for code that asks what each of them needs, such as an estimate.

A network knows its own order and shapes, as it does for ``flops``. Nothing is computed here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["Shape", "Step", "active"]

Shape = tuple[tuple[int, ...], torch.dtype]
"""Shape and type of a tensor."""


class Step(NamedTuple):
    """A piece of the forward pass; what it returns is the first argument of the step behind it."""

    part: str
    """``vision tower``, ``resampler``, ``token embeddings``, ``language model`` or ``loss``."""
    modules: Sequence[Any]
    """All modules with parameters that it runs."""
    compute: Callable[..., Tensor]
    others: tuple[Shape, ...] = ()
    """Its arguments behind the first; of the tower's and the language model's first step all."""
    is_layer: bool = False
    """Whether activation checkpointing forgets its activations and computes them a second time."""


def active(module: Any) -> Any:
    """Return the copy of a module that PEFT trains, if there is one, else the module."""
    copies = getattr(module, "modules_to_save", None)
    return module if copies is None else copies["default"]
