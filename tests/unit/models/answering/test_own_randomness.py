"""Tokens drawn row by row have the probabilities that they should have."""

from __future__ import annotations

import pytest
import torch

from minicpmv.models.answering.own_randomness import DrawRowByRow, warpers

_PROMPT = torch.zeros(1, 1, dtype=torch.int64)


def draw(scores: list[float], seeds: list[int]) -> list[int]:
    rows = torch.tensor([scores] * len(seeds))
    return DrawRowByRow(seeds)(_PROMPT.expand(len(seeds), 1), rows).argmax(dim=-1).tolist()


def test_tokens_come_as_often_as_their_probability_says() -> None:
    """4000 draws: a share of 0.5 strays by 0.008; five times that is allowed."""
    shares = torch.tensor([0.5, 0.2, 0.0, 0.3])
    drawn = torch.tensor(draw(shares.log().tolist(), list(range(4000))))
    found = torch.bincount(drawn, minlength=4) / len(drawn)
    torch.testing.assert_close(found, shares, rtol=0, atol=0.04)
    assert found[2] == 0


def test_the_smallest_number_chooses_no_token_of_probability_0(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "rand", lambda size, **_: torch.zeros(size, dtype=torch.float64))
    assert draw([-torch.inf, 0.0, 0.0], [1]) == [1]


def test_a_row_draws_on_from_step_to_step_and_alone_as_beside_others() -> None:
    scores = torch.zeros(3, 50)
    three, one = DrawRowByRow([5, 6, 7]), DrawRowByRow([6])
    steps = [three(_PROMPT, scores).argmax(dim=-1).tolist() for _ in range(5)]
    assert [row[1] for row in steps] == [one(_PROMPT, scores[:1]).argmax(dim=-1).item() for _ in range(5)]
    assert len({row[1] for row in steps}) > 1
    assert len(set(steps[0])) > 1


def test_probabilities_are_shaped_as_transformers_shapes_them() -> None:
    scores = torch.tensor([[4.0, 3.0, 2.0, 1.0]])
    for processor in warpers({"temperature": 2.0, "top_k": 3, "top_p": 0.8}):
        scores = processor(_PROMPT, scores)  # pyright: ignore[reportArgumentType]
    # Of the three likeliest, 0.51, 0.31 and 0.19 at twice the temperature, two make up 0.8.
    assert scores.tolist() == [[2.0, 1.5, -torch.inf, -torch.inf]]
    assert warpers({"temperature": 1.0, "top_k": 0, "top_p": 1.0}) == []
