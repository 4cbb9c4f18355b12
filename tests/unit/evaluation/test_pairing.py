"""Which answers become pairs, by scores and lengths counted by hand."""

from __future__ import annotations

from minicpmv.evaluation.pairing import Pair, Scored, Unpaired, balance_lengths, find_pairs


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


def test_questions_without_a_pair_are_counted_by_why() -> None:
    """Of six: right with one text, wrong with two, one score in between, too close, one answer, wrong with one text."""
    found = Unpaired(best=1, worst=0)
    for scores in (("a", 1, "a", 1), ("a", 0, "b", 0), ("a", 0.5, "b", 0.5), ("a", 0.5, "b", 0.6), ("a", 0, "a", 0)):
        found.add([Scored(str(scores[0]), float(scores[1])), Scored(str(scores[2]), float(scores[3]))])
    found.add([Scored("a", 1)])
    counts = (found.right, found.wrong, found.equal, found.near, found.unscored, found.alike)
    assert counts == (1, 2, 1, 1, 1, 2)
    assert found.number == 6
    assert found.advise().startswith("teach the model such answers first"), "wrong is the commonest"


def test_scores_without_ends_are_neither_right_nor_wrong() -> None:
    found = Unpaired()
    found.add([Scored("a", 1), Scored("b", 1)])
    assert (found.right, found.wrong, found.equal) == (0, 0, 1)
    assert "the same score every time" in found.describe()
    assert Unpaired().describe() == ""


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
