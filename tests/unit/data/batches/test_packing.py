from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Iterable, Sequence

import numpy as np
import pytest

from minicpmv.data.batches import packing
from minicpmv.data.batches.packing import RowPlanner, even_rows, group_rows, pack_rows, split_rows
from minicpmv.data.batches.plan import Rows
from minicpmv.errors import ConfigError


def flat(rows: Iterable[Sequence[int]]) -> list[int]:
    return list(itertools.chain.from_iterable(rows))


def as_rows(lists: Sequence[Sequence[int]]) -> Rows:
    return Rows.of_sizes(np.array(flat(lists), np.int32), np.array([len(row) for row in lists]))


def pack(lengths: list[int], order: Sequence[int], *, capacity: int, window: int) -> list[list[int]]:
    return list(pack_rows(np.array(lengths), np.array(order, np.int32), capacity=capacity, window=window))


def mixed_lengths(number: int, *, seed: int = 0, low: int = 50, high: int = 2000) -> list[int]:
    return np.random.default_rng(seed).integers(low, high, number, endpoint=True).tolist()


def random_cases(number: int) -> list[tuple[list[int], int, int, int]]:
    """Lengths, capacity, window and seed, of every size down to one record."""
    generator = np.random.default_rng(1)
    cases: list[tuple[list[int], int, int, int]] = []
    for seed in range(number):
        capacity = int(generator.integers(1, 300))
        lengths = generator.integers(1, capacity, int(generator.integers(1, 80)), endpoint=True).tolist()
        cases.append((lengths, capacity, int(generator.integers(1, 40)), seed))
    return cases


def test_the_longest_that_fits_is_taken_from_the_window() -> None:
    assert pack([5, 9, 3, 4, 1], range(5), capacity=10, window=4) == [[0, 3], [1, 4], [2]]
    assert pack([5, 9, 3, 4, 1], range(5), capacity=10, window=1) == [[0], [1], [2], [3], [4]]


def test_the_older_of_two_equally_long_is_taken() -> None:
    assert pack([5, 2, 2, 2], range(4), capacity=9, window=4) == [[0, 1, 2], [3]]


def test_every_record_is_in_one_row_that_holds_it_and_near_its_place() -> None:
    for lengths, capacity, window, seed in random_cases(300):
        order = np.random.default_rng(seed).permutation(len(lengths)).tolist()
        rows = pack(lengths, order, capacity=capacity, window=window)
        assert sorted(flat(rows)) == list(range(len(lengths)))
        assert max(sum(lengths[i] for i in row) for row in rows) <= capacity
        assert all(row == sorted(row, key=order.index) for row in rows)
        moved = [abs(place - order.index(i)) for place, i in enumerate(flat(rows))]
        assert max(moved) < window


def test_rows_are_split_longest_first_and_no_further_than_to_single_records() -> None:
    lengths = np.array([1, 1, 5, 5, 1, 1])
    halved = split_rows(as_rows([[0, 1], [2, 3], [4, 5]]), lengths, num_rows=4)
    assert list(halved) == [[0, 1], [2], [3], [4, 5]]
    single = split_rows(as_rows([[0, 1], [2, 3, 4, 5]]), lengths, num_rows=9)
    assert list(single) == [[0], [1], [2], [3], [4], [5]]


def test_grouped_rows_stay_within_their_window() -> None:
    for lengths, _, window, seed in random_cases(200):
        rows = as_rows([[i] for i in range(len(lengths))])
        num_ranks = 2 + seed % 3
        grouped = flat(group_rows(rows, np.array(lengths), num_ranks=num_ranks, window=max(window, num_ranks)))
        assert sorted(grouped) == list(range(len(rows)))
        assert max(abs(place - i) for place, i in enumerate(grouped)) < max(window, num_ranks)


@pytest.mark.parametrize("tried_alone", [10**6, 0])
def test_every_epoch_has_every_record_once_in_as_many_rows(tried_alone: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many epochs the number of rows is found by."""
    monkeypatch.setattr(packing, "_TRIED_ALONE", tried_alone)
    for lengths, capacity, window, seed in random_cases(120):
        num_ranks = 1 + seed % 3
        planner = RowPlanner(lengths, capacity=capacity, window=window, num_ranks=num_ranks, seed=seed)
        for epoch in range(8):
            rows = list(planner.rows(epoch))
            assert sorted(flat(rows)) == list(range(len(lengths)))
            assert len(rows) == len(planner.rows(epoch)) == planner.num_rows
            assert len(rows) % num_ranks == 0
            assert [] not in rows[: len(rows) - num_ranks + 1], "only the last step may lack rows, and not all of them"


def test_an_epoch_that_packs_worse_takes_the_first_ones_rows_in_another_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without dealing out leftovers, which then makes rows of its own."""
    monkeypatch.setattr(packing, "_JITTER", ())
    generator = np.random.default_rng(0)
    worse = 0
    for _ in range(40):
        lengths = generator.integers(1, 100, 30, endpoint=True).tolist()
        planner = RowPlanner(lengths, capacity=100, window=4)
        first = list(planner.rows(0))
        for epoch in range(4, 12):
            rows = list(planner.rows(epoch))
            if sum(row in first for row in rows) > len(rows) - 4:
                worse += 1
                assert rows != first
    assert worse > 20


REVIEWED = [140] * 42 + [100] * 4
"""Two kinds: 42 records of 140 tokens, and 4 that packing alone leaves for the last row of 2048, where they fit."""


@pytest.mark.parametrize(("lengths", "capacity"), [(REVIEWED, 2048), ([60] * 150 + [700] * 150, 2048)])
@pytest.mark.parametrize("num_ranks", [1, 2])
def test_no_kind_of_record_has_short_rows(lengths: list[int], capacity: int, num_ranks: int) -> None:
    """A record in a row of half the tokens moves the weights twice as much, if each row is an update."""
    planner = RowPlanner(lengths, capacity=capacity, num_ranks=num_ranks)
    weights: dict[int, list[float]] = {length: [] for length in lengths}
    places: list[list[int]] = []
    for epoch in range(60):
        rows = planner.rows(epoch)
        tokens = rows.sums(np.array(lengths))
        assert tokens.min() > 0.9 * tokens.max(), "no row is short"
        for row, size in zip(rows, tokens, strict=True):
            for record in row:
                weights[lengths[record]].append(tokens.mean() / size)
        places.append([lengths[record] for record in rows[len(rows) - 1]])
    kinds = {length: np.mean(each) for length, each in weights.items()}
    assert max(kinds.values()) - min(kinds.values()) < 0.02, kinds
    rare = max(kinds) if kinds.keys() == {60, 700} else min(kinds)
    share, drawn = lengths.count(rare) / len(lengths), [length == rare for row in places for length in row]
    error = (share * (1 - share) / len(drawn)) ** 0.5
    assert abs(np.mean(drawn) - share) < 3 * error, "the last row of an epoch holds what the data hold"


def test_rows_come_in_an_order_of_their_own() -> None:
    """So the last step of an epoch, which accumulation may leave shorter than others, is any of them."""
    lengths = [*range(1, 41)]
    last = [list(RowPlanner(lengths, capacity=100, seed=seed).rows(0))[-1] for seed in range(40)]
    counts = np.bincount(np.concatenate(last), minlength=40)
    assert (counts > 0).sum() > 30


def test_evened_rows_hold_the_same_records_within_capacity() -> None:
    for lengths, capacity, window, seed in random_cases(200):
        order = np.random.default_rng(seed).permutation(len(lengths)).astype(np.int32)
        packed = pack_rows(np.array(lengths), order, capacity=capacity, window=window)
        draws = np.random.default_rng(seed)
        rows = even_rows(packed, np.array(lengths), capacity=capacity, window=window, draws=draws)
        assert sorted(flat(rows)) == list(range(len(lengths)))
        assert len(rows) == len(packed)
        assert [] not in list(rows)
        assert max(sum(lengths[i] for i in row) for row in rows) <= capacity
        untouched = len(rows) - sum(packed.bounds[:-1] >= packed.bounds[-1] - window)
        assert list(rows)[:untouched] == list(packed)[:untouched]


def test_plans_depend_on_seed_and_epoch_alone() -> None:
    lengths = mixed_lengths(200)
    rows = list(RowPlanner(lengths, capacity=4096, seed=3).rows(5))
    assert list(RowPlanner(lengths, capacity=4096, seed=3).rows(5)) == rows
    assert list(RowPlanner(lengths, capacity=4096, seed=3).rows(6)) != rows
    assert list(RowPlanner(lengths, capacity=4096, seed=4).rows(5)) != rows


def test_unshuffled_rows_follow_the_data() -> None:
    planner = RowPlanner([4, 4, 4, 4], capacity=8, shuffle=False)
    assert list(planner.rows(0)) == list(planner.rows(7)) == [[0, 1], [2, 3]]


@pytest.mark.parametrize(("capacity", "num_ranks"), [(4096, 1), (2048, 1), (4096, 2), (2048, 3)])
def test_rows_of_mixed_lengths_are_97_percent_full(capacity: int, num_ranks: int) -> None:
    """Batches of four would be one third padding."""
    lengths = mixed_lengths(3000)
    planner = RowPlanner(lengths, capacity=capacity, num_ranks=num_ranks)
    tokens = [sum(lengths[i] for i in row) for row in planner.rows(0)]
    assert planner.fill == pytest.approx(sum(tokens) / (len(tokens) * capacity))
    assert planner.fill >= 0.97
    batches = np.reshape(lengths, (-1, 4))
    padding = 1 - batches.sum() / (4 * batches.max(axis=1).sum())
    assert 0.33 < padding < 0.38


def test_processes_wait_less_for_each_other_than_in_unbalanced_steps() -> None:
    """Records with images cost up to three times their tokens; a step takes as long as its slowest row."""
    lengths = mixed_lengths(2000)
    costs = [length * (3.0 if i % 3 == 0 else 1.0) for i, length in enumerate(lengths)]

    def idle(rows: Rows) -> float:
        work = np.reshape([sum(costs[i] for i in row) for row in rows], (-1, 4))
        return float(1 - work.sum() / (4 * work.max(axis=1).sum()))

    by_tokens = RowPlanner(lengths, capacity=4096, num_ranks=4).rows(0)
    by_cost = RowPlanner(lengths, capacity=4096, num_ranks=4, costs=costs).rows(0)
    assert idle(by_tokens) > 0.15
    assert idle(by_cost) < 0.04


def test_fewer_records_than_processes_leave_rows_empty() -> None:
    assert list(RowPlanner([3, 3], capacity=8, num_ranks=3, shuffle=False).rows(0)) == [[0], [1], []]


def test_planning_takes_little_memory_for_each_record() -> None:
    """Measured: 45 bytes at the peak for four processes, 55 with a million records. Lists of ints would take 300."""
    lengths = np.random.default_rng(0).integers(50, 2000, 20_000, endpoint=True, dtype=np.int32)
    tracemalloc.start()
    try:
        RowPlanner(lengths, capacity=2048, num_ranks=4).rows(0)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak / len(lengths) < 70


@pytest.mark.parametrize(("lengths", "message"), [([], "found no record"), ([4, 9], "a record of 9 tokens")])
def test_what_cannot_be_packed_is_named(lengths: list[int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RowPlanner(lengths, capacity=8)


def test_patches_bound_rows_that_tokens_do_not() -> None:
    """Half of the records are films, of few tokens and many patches."""
    lengths = np.array([10, 40] * 30)
    patches = np.array([900, 50] * 30)
    free = RowPlanner(lengths, capacity=100, seed=1)
    bound = RowPlanner(lengths, capacity=100, seed=1, patches=patches, max_patches=1500)
    for epoch in range(4):
        rows = list(bound.rows(epoch))
        assert sorted(record for row in rows for record in row) == [*range(60)]
        assert max(patches[row].sum() for row in rows if row) <= 1500
        assert max(lengths[row].sum() for row in rows if row) <= 100
    assert max(patches[row].sum() for row in free.rows(0)) > 1500


def test_a_bound_that_nothing_reaches_changes_no_row() -> None:
    lengths = np.random.default_rng(0).integers(1, 60, 500)
    patches = lengths * 16
    free = RowPlanner(lengths, capacity=100, seed=3, num_ranks=2)
    bound = RowPlanner(lengths, capacity=100, seed=3, num_ranks=2, patches=patches, max_patches=1600)
    assert all(list(free.rows(epoch)) == list(bound.rows(epoch)) for epoch in range(3))


def test_the_record_with_most_patches_has_a_row_whatever_the_bound() -> None:
    planner = RowPlanner([5, 5, 5], capacity=10, seed=0, patches=[1000, 10, 10], max_patches=20)
    assert sorted(record for row in planner.rows(0) for record in row) == [0, 1, 2]
