"""How answers and scores are spread: tables of short answers, histograms of scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from minicpmv.report.answers.distributions import OTHER, count_confusion, count_scores
from minicpmv.report.answers.pairs import AnswerSet, compare_files
from tests.unit.report.runs import answer_line, write_lines


def compared(folder: Path, said: list[tuple[str, str, str]], **more: Any) -> AnswerSet:
    """Compare answers, each the expected one, that before and that after."""
    files = [
        write_lines(
            folder / f"{name}.jsonl",
            [answer_line(str(number), each[place], each[0], **more) for number, each in enumerate(said)],
        )
        for place, name in ((1, "before"), (2, "after"))
    ]
    return compare_files(files[0], files[1], most=1)


def test_answers_are_counted_by_what_was_expected(tmp_path: Path) -> None:
    said = [("1", "2", "1"), ("1", "?", " 1 "), ("2", "2", "1"), ("10", "2", "10"), ("10", "2", "2"), ("2", "2", "2")]
    before, after = count_confusion(compared(tmp_path, said).all_pairs)
    assert (before.when, after.when) == ("before", "after")
    assert before.columns == ["1", "2", "10", OTHER], "numbers in their order"
    assert before.rows == [("1", [0, 1, 0, 1], 2), ("2", [0, 2, 0, 0], 2), ("10", [0, 2, 0, 0], 2)]
    assert after.columns == ["1", "2", "10"], "nothing else was answered"
    assert after.rows == [("1", [2, 0, 0], 2), ("2", [1, 1, 0], 2), ("10", [0, 1, 1], 2)]


def test_texts_have_no_table(tmp_path: Path) -> None:
    texts = [(f"a text of many words, number {number}", "a", "b") for number in range(4)]
    assert count_confusion(compared(tmp_path, texts).all_pairs) == []
    assert count_confusion(compared(tmp_path, [(str(number), "a", "b") for number in range(13)] * 3).all_pairs) == []
    assert count_confusion(compared(tmp_path, [("yes", "yes", "no")] * 9).all_pairs) == [], "one label"


def test_scores_are_counted_in_the_same_bins(tmp_path: Path) -> None:
    said = [("abcd", "abcx", "abcd"), ("abcd", "xxxx", "abcx"), ("abcd", "abcdabcdabcd", "abxx")]
    before, after = count_scores(compared(tmp_path, said, scores={"cer": 0.0}).all_pairs)
    assert before.edges == after.edges
    assert (before.edges[0], before.edges[-1]) == (0.0, 2.0), "an error rate may exceed 1"
    assert before.counts == [0, 1, 0, 0, 0, 1, 0, 0, 0, 1]
    assert after.counts == [1, 1, 1, 0, 0, 0, 0, 0, 0, 0]
    assert sum(after.share_of_largest) == 3


def test_right_and_wrong_have_no_histogram(tmp_path: Path) -> None:
    assert count_scores(compared(tmp_path, [("a", "a", "b"), ("b", "a", "b")]).all_pairs) == []
