"""Chooses how many layers compute their activations again: as few as the free memory allows.

A layer that keeps its activations saves a forward pass. Those of the language model come first, whose layers compute
the most for each byte that they keep, and in each part the last ones, which are used and freed first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from minicpmv.training.learning.recomputation import LLM, VISION
from minicpmv.training.start.footprint.memory import Prediction

__all__ = ["USED", "Choice", "choose_recomputed"]

USED = 0.9
"""Share of the free memory that is planned with: predictions were up to 9 % too low (``docs/estimate.md``)."""


class Choice(NamedTuple):
    """The first so many layers of each part are recomputed, by the part's name."""

    recomputed: Mapping[str, int]
    layers: Mapping[str, int]
    """Layers that could be."""
    needed: int
    """Bytes of a step besides the weights."""

    def __str__(self) -> str:
        parts = [part for part in (LLM, VISION) if self.layers[part]]
        told = [f"{self.recomputed[part]} of {self.layers[part]} layers of the {part}" for part in parts]
        return " and ".join(told)


def choose_recomputed(prediction: Prediction, asked: Mapping[str, bool | str], *, free: int, there: int = 0) -> Choice:
    """Find the fewest layers to recompute.

    Args:
        prediction: The run's step.
        asked: Whether each part is recomputed; ``auto`` leaves it to this function.
        free: Bytes that are free with the weights in place.
        there: Bytes of optimizer state that are in place as well, since the run was resumed.

    Returns:
        The choice. It recomputes all that it may if even that is predicted not to fit.
    """
    layers = prediction.layers
    room = {part: layers[part] if asked[part] == "auto" else 0 for part in (LLM, VISION)}
    fixed = {part: layers[part] for part in (LLM, VISION) if asked[part] is True}

    def keep(number: int) -> Choice:
        of_llm = min(number, room[LLM])
        open_parts = {LLM: room[LLM] - of_llm, VISION: room[VISION] - (number - of_llm)}
        recomputed = {part: fixed.get(part, open_parts[part]) for part in (LLM, VISION)}
        memory = prediction.at(recomputed)
        return Choice(recomputed, layers, memory.total - memory.weights - there)

    least, most = 0, sum(room.values())  # each layer more that keeps its activations needs more memory
    while least < most:
        middle = (least + most + 1) // 2
        if keep(middle).needed <= free * USED:
            least = middle
        else:
            most = middle - 1
    return keep(least)
