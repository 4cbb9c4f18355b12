from __future__ import annotations

from pathlib import Path

import pytest

from minicpmv.errors import UsageError
from minicpmv.report.answers.pairs import compare_files, compare_samples
from minicpmv.report.run_directory import read_run
from tests.unit.report.runs import answer_line, sample, write_lines, write_run


def write_pair(folder: Path, before: list[dict[str, object]], after: list[dict[str, object]]) -> tuple[str, str]:
    return write_lines(folder / "before.jsonl", before), write_lines(folder / "after.jsonl", after)


def test_wrong_answers_come_first(tmp_path: Path) -> None:
    said = {"a": ("yes", "yes"), "b": ("yes", "no"), "c": ("no", "no"), "d": ("no", "yes")}
    files = write_pair(
        tmp_path,
        [answer_line(key, before, "yes") for key, (before, _) in said.items()],
        [answer_line(key, after, "yes") for key, (_, after) in said.items()],
    )
    found = compare_files(*files, most=5)
    assert [(pair.name, pair.kind) for pair in found.pairs] == [
        ("b", "worse"),
        ("c", "wrong"),
        ("d", "better"),
        ("a", "right"),
    ]
    assert found.counts == {"better": 1, "worse": 1, "right": 1, "wrong": 1}
    assert [(value.metric, value.before, value.after) for value in found.values] == [("exact_match", "50.0%", "50.0%")]
    assert found.is_binary


def test_of_each_kind_so_many_are_kept_and_all_are_counted(tmp_path: Path) -> None:
    keys = [str(number) for number in range(9)]
    before = [answer_line(key, "no" if key > "1" else "yes", "yes") for key in keys]
    files = write_pair(tmp_path, before, [answer_line(key, "yes", "yes") for key in keys])
    found = compare_files(*files, most=3)
    assert [pair.kind for pair in found.pairs] == ["better"] * 3 + ["right"] * 2
    assert (found.counts["better"], found.counts["right"]) == (7, 2)


def test_where_less_is_better_less_is_better_and_the_largest_change_comes_first(tmp_path: Path) -> None:
    scores = {"scores": {"cer": 1.0}}
    files = write_pair(
        tmp_path,
        [answer_line(key, "yesno", "yes", **scores) for key in "ab"],
        [answer_line("a", "yesn", "yes", **scores), answer_line("b", "yes", "yes", **scores)],
    )
    found = compare_files(*files, most=5)
    assert [(pair.name, pair.kind) for pair in found.pairs] == [("b", "better"), ("a", "better")]
    assert (found.metric, found.is_binary, found.pairs[0].scores[1]) == ("cer", False, found.best)


def test_files_of_other_records_are_refused(tmp_path: Path) -> None:
    files = write_pair(tmp_path, [answer_line("a", "yes", "yes")], [answer_line("b", "yes", "yes")])
    with pytest.raises(UsageError, match="expected the same records"):
        compare_files(*files, most=5)


def test_samples_compare_the_first_answer_with_the_last(tmp_path: Path) -> None:
    samples = [sample(step, answer) for step, answer in ((0, "no"), (2, "perhaps"), (4, "<think>Hm.</think> yes "))]
    found = compare_samples(read_run(write_run(tmp_path, samples=samples)), most=5)
    assert found is not None
    (pair,) = found.pairs
    assert (pair.kind, pair.scores) == ("better", (0.0, 1.0))
    assert [when for when, _ in pair.answers] == ["step 0", "step 2", "step 4"]


def test_a_run_that_was_asked_once_has_nothing_to_compare(tmp_path: Path) -> None:
    assert compare_samples(read_run(write_run(tmp_path, samples=[sample(0, "no")])), most=5) is None


def test_of_answers_that_stayed_wrong_the_worst_comes_first(tmp_path: Path) -> None:
    scores = {"scores": {"cer": 1.0}}
    said = {"a": "yesx", "b": "completely else", "c": "yesxx"}
    lines = [answer_line(key, answer, "yes", **scores) for key, answer in said.items()]
    found = compare_files(*write_pair(tmp_path, lines, lines), most=5)
    assert [pair.name for pair in found.pairs] == ["b", "c", "a"]
