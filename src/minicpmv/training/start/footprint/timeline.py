"""Simulates a training step stage by stage, and yields the allocated memory at each moment, without weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from minicpmv.training.start.footprint.stages import Stage

__all__ = ["Moment", "kept_after_forward", "play"]


class Moment(NamedTuple):
    """Bytes that are allocated while one stage is computed; weights and optimizer left out."""

    name: str
    """``forward pass of the vision tower``."""
    activations: int
    logits: int
    """Logits, and the other tensors of the loss."""
    copies: int
    """Half-precision copies of weights, made by autocast."""
    gradients: int
    """Of weights."""


def play(stages: Sequence[Stage], *, gradient_bytes: int, gradients_stay: bool) -> Iterator[Moment]:
    """Yield the moments of a forward and backward pass, in order.

    Args:
        stages: The stages in the order of the forward pass.
        gradient_bytes: Bytes per trained parameter; 0 if gradients are counted with the engine that takes them over.
        gradients_stay: Whether gradients of an earlier micro-batch already exist.
    """
    all_gradients = gradient_bytes * sum(stage.num_trained for stage in stages)
    kept = copies = kept_copies = 0
    for stage in stages:
        seen = stage.footprint
        working = stage.given + seen.forward_peak - seen.forward_copies
        yield _moment("forward", stage, kept, working, copies + seen.forward_copies, all_gradients * gradients_stay)
        kept += _kept(stage)
        kept_copies += _kept_copies(stage)
        copies += max(_kept_copies(stage), seen.cached_copies)
    copies, gradients = kept_copies, 0
    for stage in reversed(stages):
        if not stage.has_backward:
            continue
        kept -= _kept(stage)
        copies -= _kept_copies(stage)
        seen = stage.footprint
        new = seen.backward_gradients if gradient_bytes and not gradients_stay else 0
        peak, own_copies = seen.backward_peak, seen.backward_copies
        if not new:
            peak = seen.backward_peak_without
        if stage.is_recomputed and seen.forward_peak > peak:  # recomputed while its output's gradient exists
            peak, own_copies, new = seen.forward_peak, seen.forward_copies, 0
        there = all_gradients if gradients_stay else gradients
        yield _moment("backward", stage, kept, stage.given + peak - own_copies - new, copies + own_copies, there + new)
        gradients += gradient_bytes * stage.num_trained


def _kept(stage: Stage) -> int:
    """Count the bytes kept from a stage's forward pass until its backward pass."""
    if not stage.has_backward:
        return 0
    if stage.is_recomputed:
        return stage.given
    return stage.given * stage.footprint.keeps_given + stage.footprint.kept


def _kept_copies(stage: Stage) -> int:
    return stage.footprint.kept_copies if stage.has_backward and not stage.is_recomputed else 0


def _moment(way: str, stage: Stage, kept: int, working: int, copies: int, gradients: int) -> Moment:
    is_loss = stage.name == "loss"
    name = "the loss" if is_loss else f"{way} pass of the {stage.name}"
    return Moment(name, kept + (0 if is_loss else working), working if is_loss else 0, copies, gradients)


def kept_after_forward(stages: Sequence[Stage]) -> int:
    """Count the bytes that autograd holds at the end of the forward pass, copies of weights included."""
    return sum(_kept(stage) + _kept_copies(stage) for stage in stages)
