"""Each metric against numbers that others have published, or that the implementation people quote gives."""

from __future__ import annotations

import math

import pytest

from minicpmv.evaluation.metrics.base import Metric, Sample
from minicpmv.evaluation.metrics.registry import find_metrics


def metric(name: str) -> Metric:
    return find_metrics([name])[0]


def of_all(name: str, answers: list[str], references: list[list[str]]) -> float:
    """Measure a set."""
    made = metric(name)
    samples = [Sample(answer=said, references=tuple(known)) for said, known in zip(answers, references, strict=True)]
    if made.sees_all_first:
        for sample in samples:
            made.prepare(sample)
    rows = [row for row in map(made.measure, samples) if row is not None]
    return made.value([sum(column) for column in zip(*rows, strict=True)])


def of_one(name: str, answer: str, *references: str) -> float | None:
    made = metric(name)
    found = made.measure(Sample(answer=answer, references=references))
    return None if found is None else made.score(found)


@pytest.mark.parametrize(
    ("answer", "reference", "exact", "normalized"),
    [
        ("A cat", "A cat", 1, 1),
        ("a cat", "A cat", 0, 1),
        ("The cat!", "cat", 0, 1),
        ("two  cats", "two cats", 0, 1),
        ("“猫”。", "猫", 0, 1),
        ("a theatre", "atheatre", 0, 0),
        ("cats", "cat", 0, 0),
    ],
)
def test_matches(answer: str, reference: str, exact: float, normalized: float) -> None:
    assert of_one("exact_match", answer, "other", reference) == exact
    assert of_one("normalized_match", answer, "other", reference) == normalized


# The official evaluation (github.com/GT-Vision-Lab/VQA, vqaEval.py) gave these; so it did on 40,000 random answers made
# of its contractions, numbers and punctuation, all of which were the same here.
@pytest.mark.parametrize(
    ("answer", "references", "accuracy"),
    [
        ("yes", ["yes"] * 10, 1.0),
        ("Yes", ["yes"] * 10, 0.0),  # where all agree, nothing is normalised
        ("2 dogs.", ["two dogs"] * 2 + ["3"] * 8, 0.6),
        ("dont know", ["don't know"] * 3 + ["no"] * 7, 0.9),
        ("x-ray", ["x ray"] + ["scan"] * 9, 0.3),
        ("1,000", ["1000"] * 5 + ["one thousand"] * 5, 1.0),
        ("a dog", ["dog"] * 4 + ["cat"] * 6, 1.0),
    ],
)
def test_vqa_accuracy_is_that_of_the_official_evaluation(answer: str, references: list[str], accuracy: float) -> None:
    assert of_one("vqa_accuracy", answer, *references) == pytest.approx(accuracy)


def test_vqa_accuracy_needs_others_who_could_agree() -> None:
    assert of_one("vqa_accuracy", "yes", "yes", "yes", "yes") is None
    assert of_one("vqa_accuracy", "yes", "yes", "yes", "yes", "yes") == 1


# The package `anls` 0.0.2 with its threshold of 0.5 gave these.
@pytest.mark.parametrize(
    ("answer", "references", "similarity"),
    [
        ("bus", ["bus", "Bus stop"], 1.0),
        ("busk", ["bus"], 0.75),
        ("Coca Cola", ["coca-cola", "pepsi"], 0.8888888888888888),
        ("abcd", ["abxy"], 0.0),
        ("abcde", ["abxye"], 0.6),
        ("", ["a"], 0.0),
    ],
)
def test_anls_is_that_of_the_package(answer: str, references: list[str], similarity: float) -> None:
    assert of_one("anls", answer, *references) == pytest.approx(similarity)


# What ChartQA's rule says as Pix2Struct writes it down (github.com/google-research/pix2struct, metrics.py).
@pytest.mark.parametrize(
    ("answer", "reference", "right"),
    [
        ("105", "100", 1),
        ("105.1", "100", 0),
        ("-95", "-100", 1),
        ("0.5", "50%", 1),
        ("50", "50%", 0),
        ("51%", "50%", 1),
        ("0", "0", 1),
        ("0.0", "0", 0),
        ("North", "north", 1),
        ("Norh", "north", 0),
        ("100", "North", 0),
        ("inf", "inf", 1),
    ],
)
def test_relaxed_accuracy(answer: str, reference: str, right: float) -> None:
    assert of_one("relaxed_accuracy", answer, reference) == right


def test_error_rates_are_those_of_jiwer() -> None:
    """jiwer 4.0.0 gave these."""
    answers = ["hello duck", "quick brown brown fox jumps", "a b"]
    references = [["hello world"], ["the quick brown fox"], ["a"]]
    assert of_all("wer", answers, references) == pytest.approx(0.7142857142857143)
    assert of_all("cer", answers, references) == pytest.approx(0.7419354838709677)
    assert of_one("wer", answers[1], references[1][0]) == 0.75
    assert of_one("cer", answers[1], references[1][0]) == pytest.approx(0.8421052631578947)


def test_error_rate_takes_the_nearest_reference() -> None:
    assert of_one("wer", "a b", "a b c d", "a b c") == pytest.approx(1 / 3)
    assert of_one("cer", "ab", "") == 2


def test_bleu_and_chrf_are_those_that_sacrebleu_documents() -> None:
    """The example of sacrebleu's README: BLEU = 48.53, chrF2 = 59.73; single sentences by its 2.6.0."""
    references = [
        ["The dog bit the man.", "The dog had bit the man."],
        ["It was not unexpected.", "No one was surprised."],
        ["The man bit him first.", "The man had bitten the dog."],
    ]
    answers = ["The dog bit the man.", "It wasn't surprising.", "The man had just bitten him."]
    assert of_all("bleu", answers, references) == pytest.approx(48.530827009929865)
    assert of_all("chrf", answers, references) == pytest.approx(59.72751782684763)
    assert of_one("bleu", answers[1], *references[1]) == pytest.approx(14.794015674776452)
    assert of_one("bleu_zh", "我爱北京天安门", "我爱天安门") == pytest.approx(30.739407647563215)
    assert of_one("bleu", "", "A dog.") == 0


# The package `rouge_score` 0.1.2 gave these, without its stemmer.
@pytest.mark.parametrize(
    ("answer", "references", "f1"),
    [
        ("The quick brown fox jumps over the lazy dog", ["The quick brown dog jumps on the log."], 0.5882352941176471),
        ("police killed the gunman", ["police kill the gunman"], 0.75),
        ("", ["a"], 0.0),
        ("snake_case isn't 2nd", ["Snake case is not 2nd!"], 0.6),
        ("the cat on the mat", ["a cat is here", "the cat sits on the mat"], 0.9090909090909091),
    ],
)
def test_rouge_l_is_that_of_the_package(answer: str, references: list[str], f1: float) -> None:
    assert of_one("rouge_l", answer, *references) == pytest.approx(f1)


def test_rouge_l_reads_chinese() -> None:
    assert of_one("rouge_l", "红色的猫", "红的猫。") == pytest.approx(2 * 3 / (4 + 3))


def test_cider_is_that_of_coco_caption() -> None:
    """CiderScorer of pycocoevalcap 1.2 gave this for the four, which are lower-case words without punctuation."""
    answers = [
        "a cat sits on a red sofa",
        "two dogs play in the park with a ball",
        "a man rides",
        "the train is at the station now",
    ]
    references = [
        ["a cat is sitting on a red couch", "the cat sits on the sofa"],
        ["two dogs are playing with a ball in the park", "dogs play in a park"],
        ["a man is riding a brown horse on the beach"],
        ["a train waits at the station", "the train at the station is waiting"],
    ]
    assert of_all("cider", answers, references) == pytest.approx(2.705535385529514)


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("b", "B"),
        (" (b). ", "B"),
        ("**C**", "C"),
        ("B. A cat", "B"),
        ("B) a cat", "B"),
        ("(B) a cat", "B"),
        ("B:\nbecause it purrs", "B"),
        ("C、猫", "C"),
        ("The answer is D.", "D"),
        ("Answer: (D)", "D"),
        ("First I thought the answer is A. No, the answer is C", "C"),
        ("正确答案是C", "C"),
        ("It must be (D), a cat", "D"),
        ("(A) or (B)?", "A"),
        ("either (A) or (B)", None),
        ("A cat", None),
        ("I see a cat", None),
        ("Because", None),
        ("answer all of it", None),
        ("The answer is It", None),
        ("", None),
    ],
)
def test_letters_are_found_by_the_stated_rule(text: str, letter: str | None) -> None:
    from minicpmv.evaluation.metrics.matches import find_choice

    assert find_choice(text) == letter


def test_choice_accuracy_compares_letters_alone() -> None:
    assert of_one("choice_accuracy", "The answer is B", "B. A cat") == 1
    assert of_one("choice_accuracy", "A cat", "B. A cat") == 0
    assert of_one("choice_accuracy", "B", "A cat") is None


@pytest.mark.parametrize(
    ("answer", "reference", "iou", "accuracy"),
    [
        ("<box>0 0 10 10</box>", "<box>0 0 10 10</box>", 1, 1),
        ("<box>0 0 10 10</box>", "<box>0 5 10 15</box>", 1 / 3, 0),
        ("<box>0 0 10 10</box>", "<box>0 0 10 5</box>", 0.5, 1),
        ("<box>10 10 0 0</box>", "<box>0 0 10 10</box>", 0, 0),
        ("no box", "<box>0 0 10 10</box>", 0, 0),
        ("<box>0 0 10 10</box><box>50 50 60 60</box>", "<box>0 0 10 10</box>", 0.5, 0.5),
        ("<box>0 0 10 10</box>", "<box>50 50 60 60</box><box>0 0 10 10</box>", 0.5, 0.5),
        ("<box>0 0 10 9</box><box>0 0 10 10</box>", "<box>0 0 10 10</box><box>0 0 10 9</box>", 1, 1),
    ],
)
def test_boxes(answer: str, reference: str, iou: float, accuracy: float) -> None:
    assert of_one("box_iou", answer, reference) == pytest.approx(iou)
    assert of_one("box_accuracy", answer, reference) == accuracy


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("<point>5 5</point>", 1),
        ("<point>10 0</point>", 1),
        ("<point>11 0</point>", 0),
        ('{"POINT": [52, 57]}', 1),
        ("click(x=5.5, y=3)", 1),
        ("<box>0 0 4 4</box>", 1),
        ("<box>0 0 40 4</box>", 0),
        ("Tap (50, 50), then (500, 500).", 1),
        ("Tap (500, 500), then (50, 50).", 0),
        ("between 5 and 5", 0),
        ("", 0),
    ],
)
def test_click_counts_where_it_lies_in_a_box_of_the_reference(answer: str, value: float) -> None:
    assert of_one("click_accuracy", answer, "<box>0 0 10 10</box> or <box>50 50 60 60</box>") == value


def test_click_is_not_measured_without_a_box() -> None:
    assert of_one("click_accuracy", "<point>5 5</point>", "the red button") is None


def test_record_without_a_box_is_not_measured() -> None:
    assert of_one("box_iou", "<box>0 0 10 10</box>", "A cat") is None


@pytest.mark.parametrize(
    ("answer", "valid", "share"),
    [
        ('{"a": 1, "b": {"c": "x"}}', 1, 1),
        ('```json\n{"b": {"c": " x "}, "a": 1.0}\n```', 1, 1),
        ('{"a": 2, "b": {"c": "x"}}', 1, 1 / 2),
        ('{"a": 1}', 1, 1 / 2),
        ('{"a": 1, "b": {"c": "x"}, "d": 3}', 1, 2 / 3),
        ('{"a": true, "b": "x"}', 1, 0),
        ('{"a": 1,', 0, 0),
        ('{"a": NaN}', 0, 0),
        ("7", 1, 0),
        ("", 0, 0),
    ],
)
def test_json(answer: str, valid: float, share: float) -> None:
    assert of_one("json_valid", answer) == valid
    assert of_one("json_field_accuracy", answer, '{"a": 1, "b": {"c": "x"}}') == pytest.approx(share)


def test_json_fields_count_alike_whatever_record_they_are_of() -> None:
    value = of_all("json_field_accuracy", ['{"a": 1}', "[1, 2, 4]"], [['{"a": 1}'], ["[1, 2, 3]"]])
    assert value == 3 / 4
    assert of_one("json_field_accuracy", "[1]", "A cat") is None


@pytest.mark.parametrize(
    ("answer", "invented", "missed"),
    [
        ('{"date": null, "items": [], "total": 7, "shop": {"name": "A", "vat": ""}}', 0, 0),
        ('{"total": 8, "shop": {"name": "B"}}', 0, 0),  # wrong, but there; what is left out is empty
        ('{"date": "May", "items": ["tea"], "total": 7, "shop": {"name": "A", "vat": " "}}', 2 / 3, 0),
        ('{"date": 0, "total": false, "shop": {"name": null}}', 1 / 3, 1 / 2),
        ("I see no receipt.", 0, 1),
    ],
)
def test_json_fields_that_are_invented_or_missed(answer: str, invented: float, missed: float) -> None:
    reference = '{"date": null, "items": [], "total": 7, "shop": {"name": "A", "vat": ""}}'
    assert of_one("json_invented", answer, reference) == pytest.approx(invented)
    assert of_one("json_missed", answer, reference) == pytest.approx(missed)


def test_json_fields_of_a_kind_that_the_reference_lacks_are_not_measured() -> None:
    assert of_one("json_invented", '{"a": 1}', '{"a": 1}') is None
    assert of_one("json_missed", '{"a": 1}', '{"a": null}') is None
    assert of_all("json_invented", ['{"a": 1}', '{"a": 1}'], [['{"a": null, "b": null}'], ['{"a": 1}']]) == 1 / 2
    assert of_one("json_invented", '{"a": 1, "b": null}', '{"a": null}', '{"a": 1, "b": null}') == 0


def test_loss_is_by_token_and_perplexity_its_exponential() -> None:
    samples = [Sample(nats=6.0, weight=2), Sample(nats=2.0, weight=2), Sample(answer="unmeasured")]
    for name, expected in (("loss", 2.0), ("perplexity", math.exp(2))):
        made = metric(name)
        rows = [row for row in map(made.measure, samples) if row is not None]
        assert made.value([sum(column) for column in zip(*rows, strict=True)]) == pytest.approx(expected)
        assert len(rows) == 2
    assert metric("perplexity").value((1e6, 1.0)) == math.inf


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("yes_no_accuracy", 4 / 7),
        ("yes_no_precision", 2 / 3),
        ("yes_no_recall", 2 / 4),
        ("yes_no_f1", 4 / 7),
        ("yes_no_share", 3 / 7),
        ("yes_no_neither", 1 / 7),
    ],
)
def test_yes_no_follows_the_definitions_of_pope(name: str, expected: float) -> None:
    """2 true yes, 1 false yes, 1 false no, 2 true no, and one that says neither where yes was right."""
    answers = ["Yes", "Yes, it is.", "yes", "No", "No.", "no", "A dog."]
    right = [["yes"], ["yes"], ["no"], ["yes"], ["no"], ["no"], ["yes"]]
    assert of_all(name, answers, right) == pytest.approx(expected)


@pytest.mark.parametrize(("name", "expected"), [("chair_i", 2 / 4), ("chair_s", 1 / 2)])
def test_chair_follows_its_definition(name: str, expected: float) -> None:
    """Mentions that are in no reference of theirs by all mentions, and captions with one by all captions."""
    assert of_all(name, ["A cat and a sofa.", "A cat, and a sofa."], [["cat", "sofa"], ["dog"]]) == expected
