"""Random tokens that do not depend on the other rows of a batch: each row has a generator of its own.

transformers draws all rows from one; an answer would change with whatever else is asked at the same time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

__all__ = ["DrawRowByRow", "warpers"]


def warpers(settings: Mapping[str, Any]) -> list[LogitsProcessor]:
    """Make what shapes the probabilities from which tokens are drawn, in transformers' order.

    Args:
        settings: With ``temperature``, ``top_k`` and ``top_p``; 0 and 1 turn the last two off.
    """
    made: list[LogitsProcessor] = []
    if settings["temperature"] != 1.0:
        made.append(TemperatureLogitsWarper(float(settings["temperature"])))
    if settings["top_k"]:
        made.append(TopKLogitsWarper(int(settings["top_k"])))
    if settings["top_p"] < 1.0:
        made.append(TopPLogitsWarper(float(settings["top_p"])))
    return made


class DrawRowByRow(LogitsProcessor):
    """Leaves of each row's tokens the one that its own random number chooses, for a greedy search to take.

    Args:
        seeds: One for each row.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        numbers = [torch.rand(1, generator=generator, dtype=torch.float64) for generator in self._generators]
        sums_BV = scores.double().softmax(dim=-1).cumsum(dim=-1)
        wanted_B1 = torch.stack(numbers).to(scores.device) * sums_BV[:, -1:]
        # The first token whose sum exceeds the number: never one of probability 0.
        chosen_B1 = torch.searchsorted(sums_BV, wanted_B1, right=True).clamp(max=scores.shape[-1] - 1)
        return torch.full_like(scores, float("-inf")).scatter(1, chosen_B1, 0.0)
