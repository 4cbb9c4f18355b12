"""Which records are answered together."""

from __future__ import annotations

import numpy as np
import pytest

from minicpmv.inference.batching import plan_batches


def plan(lengths: list[int], groups: list[int] | None = None, **limits: int | None) -> list[list[int]]:
    of_each = np.array(range(len(lengths)) if groups is None else groups)
    limits = {"batch_size": None} | limits
    return [batch.tolist() for batch in plan_batches(np.array(lengths), of_each, max_new_tokens=2, **limits)]  # pyright: ignore[reportArgumentType]


def test_the_longest_come_first_and_equals_as_given() -> None:
    assert plan([3, 9, 3, 7], batch_size=3) == [[1, 3, 0], [2]]


def test_records_with_the_same_pictures_stay_together_behind_their_longest() -> None:
    assert plan([3, 9, 8, 4, 7], groups=[5, 7, 9, 7, 5], batch_size=2) == [[1, 3], [2, 4], [0]]


@pytest.mark.parametrize(
    ("limit", "batches"),
    [(10, [[1], [3], [0, 2]]), (27, [[1, 3], [0, 2]]), (33, [[1, 3, 0], [2]]), (100, [[1, 3, 0, 2]])],
)
def test_a_batch_has_at_most_so_many_tokens_padding_and_answers_included(limit: int, batches: list[list[int]]) -> None:
    assert plan([3, 9, 3, 7], max_batch_tokens=limit) == batches


def test_both_limits_hold() -> None:
    assert plan([3, 9, 3, 7], max_batch_tokens=33, batch_size=2) == [[1, 3], [0, 2]]


def test_nothing_needs_no_batch() -> None:
    assert plan([], batch_size=2) == []
