"""Each row is drawn as its own request says."""

from __future__ import annotations

import pytest
import torch

from minicpmv.serving.drawing import Drawing, RowDrawing

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
