"""Each row is drawn as its own request says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import TopPLogitsWarper

from minicpmv.serving.answers.sampling import Drawing, RowDrawing

SCORES = torch.tensor([0.4, 0.3, 0.2, 0.1]).log()
IDS = torch.zeros(1, 1, dtype=torch.int64)
CPU = torch.device("cpu")


def counts(drawing: Drawing, *, times: int = 4000, neighbours: int = 0) -> list[int]:
    drawings = [drawing, *[Drawing(temperature=1.0)] * neighbours]
    rows = RowDrawing(drawings, CPU)
    ids = IDS.expand(len(drawings), 1)
    drawn = [int(rows(ids, SCORES.expand(len(drawings), -1))[0].argmax()) for _ in range(times)]
    return [drawn.count(token) for token in range(4)]


def test_greedy_rows_are_left_alone() -> None:
    scores = SCORES.expand(2, -1)
    left = RowDrawing([Drawing(), Drawing(temperature=1.0)], CPU)(IDS.expand(2, 1), scores)
    assert torch.equal(left[0], SCORES)
    assert torch.equal(scores, SCORES.expand(2, -1)), "the model's own scores are not written to"


def test_tokens_come_as_often_as_their_probability_says() -> None:
    """4000 draws: three standard deviations are 93 at most."""
    assert counts(Drawing(temperature=1.0, seed=0)) == pytest.approx([1600, 1200, 800, 400], abs=95)
    squares = torch.tensor([0.16, 0.09, 0.04, 0.01]) / 0.30  # half the temperature squares probabilities
    assert counts(Drawing(temperature=0.5, seed=1)) == pytest.approx((4000 * squares).tolist(), abs=95)


def test_top_p_keeps_the_likeliest() -> None:
    assert counts(Drawing(temperature=1.0, top_p=0.5, seed=0), times=300)[2:] == [0, 0]
    assert counts(Drawing(temperature=1.0, top_p=0.3, seed=0), times=50) == [50, 0, 0, 0]


def test_however_cold_it_is_the_likeliest_token_comes() -> None:
    assert counts(Drawing(temperature=1e-40, seed=0), times=20) == [20, 0, 0, 0]


def test_a_seed_repeats_whoever_else_is_there() -> None:
    drawing = Drawing(temperature=1.0, seed=7)
    assert counts(drawing, times=50) == counts(drawing, times=50, neighbours=3)
    assert counts(Drawing(temperature=1.0), times=200) != counts(Drawing(temperature=1.0), times=200)


def draw_alone(drawing: Drawing, scores: torch.Tensor, stream: torch.Generator) -> int:
    """Draw one row by transformers' warpers and torch's multinomial."""
    logits = (scores[None] - scores.max()) / drawing.temperature
    if drawing.top_p < 1:
        logits = TopPLogitsWarper(drawing.top_p)(IDS, logits)  # pyright: ignore[reportArgumentType]
    return int(torch.multinomial(logits.softmax(dim=-1), 1, generator=stream))


def test_rows_together_are_drawn_as_each_by_itself() -> None:
    """Rows of every kind, sizes at which vector instructions leave a rest, and more than one draw of each stream."""
    kinds = [(0.7, 0.8), (0.0, 1.0), (1.0, 1.0), (1.3, 0.95), (0.2, 0.3), (2.0, 1.0), (0.7, 0.8)]
    drawings = [Drawing(temperature=hot, top_p=most, seed=row) for row, (hot, most) in enumerate(kinds)]
    for size in (5, 1003, 40_000):
        together = RowDrawing(drawings, CPU)
        streams = [torch.Generator().manual_seed(row) for row in range(len(drawings))]
        for step in range(4):
            noise = torch.Generator().manual_seed(step)
            scores = 3 * torch.randn(len(drawings), size, generator=noise)
            found = together(IDS.expand(len(drawings), 1), scores).argmax(dim=-1).tolist()
            rows = zip(drawings, scores, streams, strict=True)
            expected = [
                draw_alone(drawing, row, stream) if drawing.temperature else int(row.argmax())
                for drawing, row, stream in rows
            ]
            assert found == expected


class _Counting(TorchDispatchMode):
    """Counts what the device is given to do."""

    num_tasks = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.num_tasks += function not in (torch.ops.aten.unbind.int, torch.ops.aten.exponential_.default)
        return function(*args, **kwargs or {})


def test_one_random_stream_is_all_that_a_row_costs() -> None:
    counted: list[int] = []
    for num_rows in (1, 64):
        rows = RowDrawing([Drawing(temperature=1.0, top_p=0.9, seed=row) for row in range(num_rows)], CPU)
        with _Counting() as counting:
            rows(IDS.expand(num_rows, 1), SCORES.expand(num_rows, -1))  # pyright: ignore[reportArgumentType]
        counted.append(counting.num_tasks)
    assert counted[0] == counted[1] > 5
