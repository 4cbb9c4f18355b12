"""Chooses the next token of each row of a batch by its own request's settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import LogitsProcessor

__all__ = ["Drawing", "RowDrawing"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawing:
    """Holds the sampling settings of one answer."""

    temperature: float = 0.0
    """Temperature; 0 always takes the likeliest token."""
    top_p: float = 1.0
    seed: int | None = None
    """Seed of the answer; None takes a random one."""


class RowDrawing(LogitsProcessor):
    """Samples the rows whose request asks for it, and leaves ``generate`` only the sampled token.

    Each row has its own random stream, so an answer does not depend on the rest of the batch. Only the streams are
    processed row by row: temperatures and limits are columns, so that the device runs the same few
    kernels for one row and for many.

    Args:
        drawings: Settings, one for each row.
        device: Device of the scores.
    """

    def __init__(self, drawings: Sequence[Drawing], device: torch.device) -> None:
        drawn = {row: drawing for row, drawing in enumerate(drawings) if drawing.temperature > 0}
        self._streams = [torch.Generator(device) for _ in drawn]
        for stream, drawing in zip(self._streams, drawn.values(), strict=True):
            stream.seed() if drawing.seed is None else stream.manual_seed(drawing.seed)
        self._rows_N = torch.tensor(list(drawn), dtype=torch.int64, device=device)
        self._temperatures_N1 = _column([drawing.temperature for drawing in drawn.values()], device)
        self._left_out_N1 = _column([1 - drawing.top_p for drawing in drawn.values()], device)
        """Total probability of the unlikeliest tokens, which a row never draws."""
        self._is_limited = any(drawing.top_p < 1 for drawing in drawn.values())

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        if not self._streams:
            return scores
        logits_NV = scores[self._rows_N].float()
        # The maximum becomes 0, so that no temperature overflows.
        logits_NV = (logits_NV - logits_NV.amax(dim=-1, keepdim=True)) / self._temperatures_N1
        if self._is_limited:
            logits_NV = _keep_likeliest(logits_NV, self._left_out_N1)
        tokens_N1 = _draw(logits_NV.softmax(dim=-1), self._streams)
        drawn_NV = torch.full_like(logits_NV, -torch.inf).scatter(1, tokens_N1, 0.0)
        return scores.index_copy(0, self._rows_N, drawn_NV.to(scores.dtype))


def _column(values: Sequence[float], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device)[:, None]


def _keep_likeliest(logits_NV: Tensor, left_out_N1: Tensor) -> Tensor:
    """Leave out a row's unlikeliest tokens as long as their total is within its limit; never all of them."""
    sorted_NV, order_NV = logits_NV.sort(dim=-1)
    is_out_NV = sorted_NV.softmax(dim=-1).cumsum(dim=-1) <= left_out_N1
    is_out_NV[:, -1] = False
    return logits_NV.masked_fill(is_out_NV.scatter(1, order_NV, is_out_NV), -torch.inf)


def _draw(probabilities_NV: Tensor, streams: Sequence[torch.Generator]) -> Tensor:
    """Draw a token for each row, (N, 1), with the numbers that ``torch.multinomial`` would take from its stream.

    Every token gets a waiting time, exponentially distributed at the rate of its probability; the token that
    comes first follows the given distribution.
    """
    waits_NV = torch.empty_like(probabilities_NV)
    for waits_V, stream in zip(waits_NV, streams, strict=True):
        waits_V.exponential_(generator=stream)
    return (probabilities_NV / waits_NV).argmax(dim=-1, keepdim=True)
