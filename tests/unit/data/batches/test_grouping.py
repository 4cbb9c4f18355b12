from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from minicpmv.data.batches.grouping import BatchPlanner, LengthGrouper
from minicpmv.errors import ConfigError


def planners(number: int, **options: Any) -> list[BatchPlanner]:
    """One of each kind for the same records."""
    return [
        BatchPlanner(number, **options),
        BatchPlanner(number, **options, shuffle=False),
        LengthGrouper(range(number), **options),
    ]


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
@pytest.mark.parametrize("number", [1, 2, 7, 24, 101])
def test_every_record_is_in_one_batch_of_an_epoch(number: int, num_ranks: int) -> None:
    for planner, epoch in itertools.product(planners(number, batch_size=4, num_ranks=num_ranks), range(3)):
        rows = list(planner.rows(epoch))
        assert sorted(itertools.chain.from_iterable(rows)) == list(range(number))
        assert len(rows) == len(planner.rows(epoch)) == planner.num_rows
        assert len(rows) % num_ranks == 0
        sizes = [len(row) for row in rows]
        assert set(sizes[:-num_ranks]) <= {4}, "only the last step may be smaller"
        assert max(sizes[-num_ranks:]) - min(sizes[-num_ranks:]) <= 1, "and is shared out evenly"


def test_unshuffled_batches_follow_the_data() -> None:
    planner = BatchPlanner(7, batch_size=2, num_ranks=2, shuffle=False)
    assert list(planner.rows(0)) == list(planner.rows(3)) == [[0, 2], [1, 3], [4, 6], [5]]


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_a_last_step_that_is_not_full_can_be_dropped(num_ranks: int) -> None:
    for planner in planners(21, batch_size=4, num_ranks=num_ranks, drop_last=True):
        rows = list(planner.rows(1))
        assert {len(row) for row in rows} == {4}
        assert len(set(itertools.chain.from_iterable(rows))) == planner.num_records == 20 - 4 * (num_ranks - 1)


def test_what_leaves_nothing_to_train_on_is_refused() -> None:
    with pytest.raises(ConfigError, match="found 7 records, fewer than the 8 of the only step"):
        BatchPlanner(7, batch_size=4, num_ranks=2, drop_last=True)
    with pytest.raises(ConfigError, match="found no record"):
        BatchPlanner(0, batch_size=4)


def test_grouped_batches_hardly_pad() -> None:
    lengths = np.random.default_rng(0).integers(50, 2000, 3000)
    rows = LengthGrouper(lengths.tolist(), batch_size=4).rows(0)
    longest = sum(len(row) * lengths[row].max() for row in rows)
    assert 1 - lengths.sum() / longest < 0.02


def test_epochs_differ_and_repeat() -> None:
    for kind in (0, 2):
        first, again, other = (planners(50, batch_size=4, seed=seed)[kind] for seed in (1, 1, 2))
        assert list(first.rows(2)) == list(again.rows(2))
        assert list(first.rows(2)) != list(first.rows(3))
        assert list(first.rows(2)) != list(other.rows(2))
