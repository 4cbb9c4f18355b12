from __future__ import annotations

import itertools

import numpy as np
import pytest

from minicpmv.data.grouping import LengthGrouper


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
@pytest.mark.parametrize("number", [1, 2, 7, 24, 101])
def test_every_record_is_in_one_batch_of_an_epoch(number: int, num_ranks: int) -> None:
    grouper = LengthGrouper(list(range(number)), batch_size=4, num_ranks=num_ranks)
    for epoch in range(3):
        rows = grouper.rows(epoch)
        assert sorted(itertools.chain.from_iterable(rows)) == list(range(number))
        assert len(rows) == grouper.num_rows
        assert len(rows) % num_ranks == 0
        assert max(map(len, rows)) <= 4


def test_grouped_batches_hardly_pad() -> None:
    lengths = np.random.default_rng(0).integers(50, 2000, 3000)
    rows = LengthGrouper(lengths.tolist(), batch_size=4).rows(0)
    longest = sum(len(row) * lengths[row].max() for row in rows)
    assert 1 - lengths.sum() / longest < 0.02


def test_epochs_differ_and_repeat() -> None:
    first, again = (LengthGrouper(list(range(50)), batch_size=4, seed=1) for _ in range(2))
    assert first.rows(2) == again.rows(2) != first.rows(3)
