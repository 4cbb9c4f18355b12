"""Which answers become pairs, by scores and lengths counted by hand."""

from __future__ import annotations

from minicpmv.evaluation.pairing import Pair, Scored, balance_lengths, find_pairs


def texts(pairs: list[Pair]) -> set[tuple[str, str]]:
    return {(pair.chosen.text, pair.rejected.text) for pair in pairs}


def test_pairs_are_all_that_lie_the_gap_apart() -> None:
    answers = [Scored("a", 3), Scored("b", 2), Scored("c", 2), Scored("d", 0.5)]
    found = find_pairs(0, answers, min_gap=1, most=100, seed=0)
    assert texts(found) == {("a", "b"), ("a", "c"), ("a", "d"), ("b", "d"), ("c", "d")}
    assert texts(find_pairs(0, answers, min_gap=2.5, most=100, seed=0)) == {("a", "d")}


def test_equal_scores_are_no_pair_whatever_the_gap() -> None:
    assert find_pairs(0, [Scored("a", 1), Scored("b", 1)], min_gap=0, most=9, seed=0) == []


def test_equal_texts_count_once_with_their_first_draw() -> None:
    answers = [Scored("a", 1, 1), Scored("b", 0, 2), Scored("a", 1, 3)]
    (pair,) = find_pairs(0, answers, min_gap=0, most=9, seed=0)
    assert (pair.chosen.draw, pair.rejected.draw) == (1, 2)


def test_seed_and_question_decide_which_pairs_are_drawn() -> None:
    answers = [Scored(str(number), number) for number in range(10)]
    drawn = [
        texts(find_pairs(index, answers, min_gap=1, most=2, seed=seed)) for index, seed in ((0, 0), (0, 0), (1, 0))
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    assert {len(each) for each in drawn} == {2}
    assert texts(find_pairs(0, answers, min_gap=1, most=2, seed=1)) != drawn[0]


def test_pairs_that_differ_most_in_length_go_until_both_directions_are_as_many() -> None:
    """Better answers of 4, 6, 20 characters against 5, 5, 10: differences of 1/5, 1/6, 1/2; and one of equal length."""
    lengths = [(4, 5), (6, 5), (20, 10), (7, 7)]
    pairs = [Pair(n, Scored("x" * one, 1), Scored("y" * other, 0)) for n, (one, other) in enumerate(lengths)]
    assert [pair.index for pair in balance_lengths(pairs)] == [0, 1, 3]
    assert balance_lengths([]) == []
