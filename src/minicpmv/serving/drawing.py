"""Chooses each row's next token as its own request says, within one batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from transformers import LogitsProcessor, TopPLogitsWarper

__all__ = ["Drawing", "RowDrawing"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawing:
    """How the tokens of one answer are chosen."""

    temperature: float = 0.0
    """0 takes the likeliest token every time."""
    top_p: float = 1.0
    seed: int | None = None
    """Makes the answer repeatable; None takes one at random."""


class RowDrawing(LogitsProcessor):
    """Draws where a row's request asks for it, and leaves only the drawn token for ``generate`` to take.

    Each row has a random stream of its own, so an answer does not depend on who else is in the batch.

    Args:
        drawings: One for each row.
        device: Of the scores.
    """

    def __init__(self, drawings: Sequence[Drawing], device: torch.device) -> None:
        self._drawn = {row: drawing for row, drawing in enumerate(drawings) if drawing.temperature > 0}
        self._streams = {row: torch.Generator(device) for row in self._drawn}
        for row, stream in self._streams.items():
            seed = self._drawn[row].seed
            stream.seed() if seed is None else stream.manual_seed(seed)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        if not self._drawn:
            return scores
        scores = scores.clone()
        for row, drawing in self._drawn.items():
            logits = scores[row : row + 1].float()
            logits = (logits - logits.max()) / drawing.temperature  # the maximum becomes 0, however cold it is
            if drawing.top_p < 1:
                logits = TopPLogitsWarper(drawing.top_p)(cast("Any", input_ids), logits)
            token = torch.multinomial(logits.softmax(dim=-1), 1, generator=self._streams[row])
            scores[row] = -torch.inf
            scores[row, token] = 0.0
        return scores
