"""Says in which precision the tests train: float32, or what ``pytest --precision bf16`` asks for."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["PRECISIONS", "bound", "choose_precision", "chosen_precision", "precision_flags"]

PRECISIONS = {"fp32": [], "bf16": ["--bf16", "true"]}
"""The flags of a training run, by the name that pytest and the scripts take. On a processor float32 is the default."""

_chosen = "fp32"


def choose_precision(name: str) -> None:
    """Train in this precision from now on. ``tests/conftest.py`` says so before it imports any test."""
    global _chosen
    _chosen = name


def chosen_precision() -> str:
    return _chosen


def precision_flags(given: Sequence[str]) -> list[str]:
    """Return the flags to add to these; none where they state a precision themselves."""
    is_stated = any(word.partition("=")[0] in ("--bf16", "--fp16") for word in given)
    return [] if is_stated else PRECISIONS[_chosen]


def bound(*, fp32: float, bf16: float) -> float:
    """Return the bound that belongs to the precision of training. Both are measured where they are written."""
    return {"fp32": fp32, "bf16": bf16}[_chosen]
