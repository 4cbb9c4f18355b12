from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import numpy as np

from minicpmv.data.batches.packing import even_rows, pack_rows, split_rows
from minicpmv.data.batches.plan import Rows


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


def test_evened_rows_hold_the_same_records_within_capacity() -> None:
    for lengths, capacity, window, seed in random_cases(200):
        order = np.random.default_rng(seed).permutation(len(lengths)).astype(np.int32)
        packed = pack_rows(np.array(lengths), order, capacity=capacity, window=window)
        for number in (len(packed), len(packed) + 1 + seed % 3):
            draws = np.random.default_rng(seed)
            rows = even_rows(packed, np.array(lengths), num_rows=number, capacity=capacity, window=window, draws=draws)
            assert sorted(flat(rows)) == list(range(len(lengths)))
            assert len(rows) == min(number, len(lengths))
            assert [] not in list(rows)
            assert max(sum(lengths[i] for i in row) for row in rows) <= capacity
            untouched = len(packed) - sum(packed.bounds[:-1] >= packed.bounds[-1] - window)
            if number == len(packed):
                assert list(rows)[:untouched] == list(packed)[:untouched]


def test_more_rows_than_are_packed_are_all_nearly_as_full() -> None:
    """Six rows more for 3,000 records. Halving six would leave rows of one record; here all lose a few per cent."""
    lengths = np.array(mixed_lengths(3000, high=800))
    packed = pack_rows(lengths, np.arange(3000, dtype=np.int32), capacity=4096, window=512)
    draws = np.random.default_rng(0)
    rows = even_rows(packed, lengths, num_rows=len(packed) + 6, capacity=4096, window=512, draws=draws)
    assert len(rows) == len(packed) + 6
    assert rows.sums(lengths).min() > 0.85 * 4096
