"""Finds devices by name: a card of ``machine.cards``, a size alone, such as 24GB, or this machine's processor."""

from __future__ import annotations

import re
import time

import torch

from minicpmv.errors import UsageError
from minicpmv.machine.cards import CARDS, Card

__all__ = ["find_device", "measure_cpu"]


def find_device(
    written: str, *, flag: str = "--gpu", given: str | None = None, forms: str = "a size such as 24GB"
) -> Card:
    """Parse a card: its name, or a number of gigabytes, which for a card are GiB.

    >>> find_device("24GB").memory_gib
    24.0

    Args:
        written: The card.
        flag: The flag that names it, for messages.
        given: Its value, where that is more than the card.
        forms: What the flag takes besides names.

    Raises:
        UsageError: It is neither.
    """
    name = written.strip().lower()
    if name in CARDS:
        return CARDS[name]
    size = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:g|gb|gib)", name)
    if size is None or float(size[1]) == 0:
        raise UsageError(
            f"{flag}: found {given or written!r}, expected {forms}, or one of {', '.join(CARDS)}\n"
            "  fix: write the card's memory, such as 24GB"
        )
    return Card(name, float(size[1]))


def measure_cpu(dtype: torch.dtype) -> Card:
    """Time matrix products on this machine, for a fraction of a second."""
    side = 1024
    left, right = torch.ones(side, side, dtype=dtype), torch.ones(side, side, dtype=dtype)
    torch.mm(left, right)  # the first product initialises the library
    started, number = time.perf_counter(), 0
    while time.perf_counter() - started < 0.2:
        torch.mm(left, right)
        number += 1
    tflops = 2 * side**3 * number / (time.perf_counter() - started) / 1e12
    return Card("cpu", None, tflops, tflops)
