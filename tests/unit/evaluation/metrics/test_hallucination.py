"""Yes/no questions and objects in captions: hand-counted values."""

from __future__ import annotations

from pathlib import Path

import pytest

from minicpmv.errors import UsageError
from minicpmv.evaluation.metrics.base import Sample
from minicpmv.evaluation.metrics.hallucination import Objects, find_yes_no
from minicpmv.evaluation.metrics.registry import find_metrics, split_names
from minicpmv.evaluation.scores import Result, Scorer


def measured(names: str, *samples: Sample) -> dict[str, Result]:
    scorer = Scorer(metrics := find_metrics(split_names(names)))
    for metric in metrics:
        for sample in samples if metric.sees_all_first else ():
            metric.prepare(sample)
    for sample in samples:
        scorer.add(sample)
    return dict(scorer.results())


def asked(answer: str, *references: str) -> Sample:
    return Sample(answer=answer, references=references)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("yes", True),
        ("Yes, there is no doubt.", True),
        ("No.", False),
        ("There is a cat. No dog, though.", False),
        ("It isn't there", False),
        ("It isn’t there", False),
        ("I cannot see one", False),
        ("是的。", True),
        ("没有狗", False),
        ("Nothing, another, eyes, notable", None),
        ("A cat.", None),
        ("", None),
    ],
)
def test_first_word_for_yes_or_no_decides(text: str, says: bool | None) -> None:
    assert find_yes_no(text) is says


def test_yes_no_is_counted_as_pope_counts() -> None:
    """3 true yes, 1 false yes, 1 false no, 2 true no, and one that says neither where yes was right."""
    found = measured(
        "yes_no",
        *[asked("Yes.", "yes")] * 3,
        asked("Yes, there is.", "no"),
        asked("No", "Yes"),
        *[asked("There is no dog.", "no")] * 2,
        asked("A dog.", "yes"),
    )
    assert {name: result.value for name, result in found.items()} == {
        "yes_no_accuracy": 5 / 8,
        "yes_no_precision": 3 / 4,
        "yes_no_recall": 3 / 5,
        "yes_no_f1": pytest.approx(2 * (3 / 4 * 3 / 5) / (3 / 4 + 3 / 5)),
        "yes_no_share": 4 / 8,
        "yes_no_neither": 1 / 8,
    }
    # Wilson's interval of 5 of 8, from its closed form; F1 is no mean of records, so it is drawn.
    assert (found["yes_no_accuracy"].low, found["yes_no_accuracy"].high) == pytest.approx((0.3057, 0.8632), abs=5e-5)
    assert found["yes_no_f1"].low < found["yes_no_f1"].value < found["yes_no_f1"].high


def test_yes_no_without_a_yes_has_no_precision() -> None:
    found = measured("yes_no", asked("No", "no"), asked("What?", "no"))
    assert [result.value for result in found.values()] == [1 / 2, 0, 0, 0, 0, 1 / 2]


def test_reference_that_says_neither_is_not_measured() -> None:
    found = measured("yes_no", asked("Yes", "a cat"), asked("Yes", "a cat", "yes"))
    assert {result.num_records for result in found.values()} == {1}
    with pytest.raises(UsageError, match="expected a reference that says yes or no"):
        measured("yes_no_f1", asked("Yes", "a cat"))


def test_score_of_a_record_is_whether_it_is_right() -> None:
    (precision,) = find_metrics(["yes_no_precision"])
    answers = (("Yes", "yes"), ("Yes", "no"), ("No", "yes"), ("No", "no"), ("?", "no"))
    found = [precision.measure(asked(*each)) for each in answers]
    assert [precision.score(row) for row in found if row is not None] == [1, 0, 0, 1, 0]


def test_objects_are_found_by_their_longest_names_and_regular_plurals() -> None:
    objects = Objects([["dog"], ["hot dog"], ["cat", "kitty"], ["knife"], ["bus"], ["沙发"]])
    found = objects.find("Two hot dogs, dogs, kitties, KNIVES and buses; catalogues. 猫在沙发上")
    assert found == [("hot", "dog"), ("dog",), ("cat",), ("knife",), ("bus",), ("沙", "发")]


def test_objects_with_a_common_name_are_one() -> None:
    objects = Objects([["sofa", "couch"], ["settee"], ["settee", "couch"]])
    assert set(objects.find("A sofa, a couch, a settee")) == {("couch",)}


def test_chair_counts_mentions_and_answers() -> None:
    """Mentions: cat, couch and dog; dogs and dog; none. Dogs are in no picture but the third: 3 of 5, 2 of 3."""
    found = measured(
        "chair",
        asked("A kitten on a couch, and a dog.", "cat, kitten", "sofa, couch"),
        asked("Dogs! A dog!", "cat"),
        asked("Blue sky.", "dog"),
    )
    assert (found["chair_i"].value, found["chair_s"].value) == (3 / 5, pytest.approx(2 / 3))
    assert (found["chair_s"].low, found["chair_s"].high) == pytest.approx((0.2077, 0.9385), abs=5e-5)  # Wilson, 2 of 3
    assert found["chair_i"].num_records == 3


def test_chair_without_a_mention_is_0() -> None:
    assert [result.value for result in measured("chair", asked("Nothing.", "cat")).values()] == [0, 0]


def test_vocabulary_of_a_file_reads_references_that_are_captions(tmp_path: Path) -> None:
    file = tmp_path / "objects.txt"
    file.write_text("# ours\ncat, kitten\nsofa, couch\ndog, puppy\n", encoding="utf-8")
    captions = ("A little cat sleeps on something soft and red.", "A kitten. sofa")
    found = measured(f"chair:{file}", asked("A cat, a couch, two puppies.", *captions))
    assert (found["chair_i"].value, found["chair_s"].value) == (pytest.approx(1 / 3), 1)
    with pytest.raises(UsageError, match=r"expected references that each name one object .* \(chair:FILE\)"):
        measured("chair", asked("A cat.", *captions))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("chair:missing.txt", r"--metrics chair_i:missing.txt: found no file that can be read \(No such file"),
        ("chair:empty.txt", "empty.txt: found no object, expected on each line an object's names"),
        ("anls:empty.txt", r"found a file behind anls \('empty.txt'\), which takes none"),
        ("chair_i,chair_i:empty.txt", "found chair_i with several files, expected one"),
    ],
)
def test_file_behind_a_name_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").write_text("# nothing\n\n")
    with pytest.raises(UsageError, match=message):
        find_metrics(split_names(names))
