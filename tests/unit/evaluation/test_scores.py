"""Values of sets, their intervals, and what is kept of a record."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest

from minicpmv.errors import UsageError
from minicpmv.evaluation.metrics.base import Metric, Sample
from minicpmv.evaluation.metrics.registry import find_metrics
from minicpmv.evaluation.resampling import mcnemar, paired_interval, tail_test
from minicpmv.evaluation.scores import Scorer, shown


def binary(num_right: int, num_wrong: int) -> Iterator[Sample]:
    for said in ["yes"] * num_right + ["no"] * num_wrong:
        yield Sample(answer=said, references=("yes",))


def made_up(count: int) -> Iterator[Sample]:
    """Yield answers of a few words out of fifty."""
    drawn = random.Random(0)
    words = [f"word{number}" for number in range(50)]
    for _ in range(count):
        reference = " ".join(drawn.choices(words, k=6))
        answer = " ".join(word if drawn.random() < 0.8 else "other" for word in reference.split())
        yield Sample(question="Which?", answer=answer, references=(reference,), nats=drawn.random(), weight=7)


def score_all(metrics: list[Metric], samples: Iterator[Sample]) -> Scorer:
    scorer = Scorer(metrics)
    for sample in samples:
        scorer.add(sample)
    return scorer


def test_value_is_of_the_set_and_scores_are_of_records() -> None:
    scorer = Scorer(find_metrics(["exact_match", "wer"]))
    first = scorer.add(Sample(answer="a b", references=("a b",)))
    second = scorer.add(Sample(answer="x", references=("a b c d e f",)))
    assert (first, second) == ({"exact_match": 1, "wer": 0}, {"exact_match": 0, "wer": 1})
    assert scorer.results()["exact_match"].value == 0.5
    assert scorer.results()["wer"].value == 6 / 8, "edits by words, not the mean of two rates"


@pytest.mark.parametrize(
    ("right", "wrong", "low", "high"),
    [
        (0, 14, 0.0, 0.2153),  # closed form: z^2 / (n + z^2)
        (14, 0, 0.7847, 1.0),
        (0, 20, 0.0, 0.1611),  # Newcombe (1998), table I, method 3: 0/20
        (1, 28, 0.0061, 0.1718),  # the same, 1/29
        (15, 133, 0.0624, 0.1605),  # the same, 15/148
        (81, 182, 0.2553, 0.3662),  # the same, 81/263
        (1, 0, 0.2065, 1.0),
    ],
)
def test_a_share_of_records_that_are_right_has_wilson_s_interval(
    right: int, wrong: int, low: float, high: float
) -> None:
    found = score_all(find_metrics(["exact_match"]), binary(right, wrong)).results()["exact_match"]
    assert (found.low, found.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))
    assert found.low <= found.value <= found.high


def test_a_share_that_records_have_in_part_is_drawn() -> None:
    """Wilson's interval is of records that are right or wrong; these are half right, all of them."""
    samples = (Sample(answer="abcd", references=("abce",)) for _ in range(10))
    found = score_all(find_metrics(["anls"]), samples).results()["anls"]
    assert (found.low, found.value, found.high) == (0.75, 0.75, 0.75)


def test_a_mean_of_zeros_and_ones_has_wilson_s_interval_whatever_the_metric() -> None:
    """As docs/evaluation.md has it, and as the comparison of two files chooses its test."""
    found = score_all(find_metrics(["anls", "exact_match"]), binary(3, 11)).results()
    assert (found["anls"].low, found["anls"].high) == (found["exact_match"].low, found["exact_match"].high)


def test_seed_decides_the_drawn_interval() -> None:
    def interval(seed: int) -> tuple[float, float]:
        scorer = Scorer(find_metrics(["wer"]), seed=seed)
        for sample in made_up(100):
            scorer.add(sample)
        found = scorer.results()["wer"]
        return found.low, found.high

    assert interval(0) == interval(0) != interval(1)


def test_blocks_of_records_end_nowhere() -> None:
    """600 records are three blocks, the last of them begun; asking twice counts nothing twice."""
    scorer = score_all(find_metrics(["exact_match"]), binary(300, 300))
    assert scorer.results() == scorer.results()
    assert scorer.results()["exact_match"].num_records == 600


def test_records_that_a_metric_cannot_measure_do_not_count() -> None:
    scorer = Scorer(find_metrics(["box_iou", "exact_match"]))
    scores = scorer.add(Sample(answer="A cat", references=("A cat",)))
    scorer.add(Sample(answer="<box>0 0 1 1</box>", references=("<box>0 0 1 1</box>",)))
    scorer.add(Sample(answer="nobody knows"))
    assert scores == {"box_iou": None, "exact_match": 1}
    assert {name: found.num_records for name, found in scorer.results().items()} == {"box_iou": 1, "exact_match": 2}
    with pytest.raises(UsageError, match=r"box_iou: found none of 1 record that it can measure, expected a refer"):
        score_all(find_metrics(["box_iou"]), binary(1, 0)).results()


def test_memory_does_not_grow_with_the_records() -> None:
    """Ten thousand records keep what a thousand do: measured 1.01, where 100 bytes kept for each would make it 1.2."""

    def kept(count: int) -> int:
        metrics = find_metrics(["exact_match", "anls", "cer", "wer", "rouge_l", "loss"])
        tracemalloc.start()
        scorer = score_all(metrics, made_up(count))
        size, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert scorer.num_records == count
        return max(size, peak)

    kept(300)  # whatever is imported or kept once
    assert kept(10_000) < 1.05 * kept(1_000)


def test_test_and_interval_of_two_paired_shares_are_the_published_ones() -> None:
    """Of 21 children 1 and 7 changed: the example of Fagerland, Lydersen and Laake (2014), by Tango's interval."""
    assert mcnemar(1, 7) == mcnemar(7, 1) == pytest.approx(0.034, abs=5e-4)
    assert paired_interval(1, 7, 21) == pytest.approx((-0.517, -0.026), abs=5e-4)


@pytest.mark.parametrize("num_records", [1, 5, 12, 40])
def test_interval_leaves_out_0_exactly_where_the_test_finds_a_difference(num_records: int) -> None:
    for better in range(num_records + 1):
        for worse in range(num_records + 1 - better):
            low, high = paired_interval(better, worse, num_records)
            assert low <= (better - worse) / num_records <= high
            assert (mcnemar(better, worse) < 0.05) == (low > 0 or high < 0), (better, worse)


def test_no_changed_record_leaves_a_width() -> None:
    low, high = paired_interval(0, 0, 20)
    assert -low == high == pytest.approx(0.1611, abs=1e-4)
    assert mcnemar(0, 0) == 1


@pytest.mark.parametrize("num_draws", [999, 1000, 1001])
def test_interval_of_drawn_differences_leaves_out_0_exactly_where_p_is_below_a_twentieth(num_draws: int) -> None:
    for num_beyond in range(20, 30):
        drawn = np.concatenate([np.full(num_beyond, -1.0), np.full(num_draws - num_beyond, 1.0)])
        p_value, (low, high) = tail_test(drawn)
        assert (p_value < 0.05) == (low > 0), num_beyond
        p_value, (low, high) = tail_test(-drawn)
        assert (p_value < 0.05) == (high < 0), num_beyond


def test_one_record_proves_nothing() -> None:
    """A drawn set without it shows no difference."""
    drawn = np.random.default_rng(0).poisson(1.0, 1000).clip(max=1).astype(np.float64)
    p_value, (low, high) = tail_test(drawn)
    assert p_value > 0.5
    assert (low, high) == (0, 1)


def test_values_are_shown_as_people_read_them() -> None:
    anls, perplexity = find_metrics(["anls", "perplexity"])
    assert (shown(anls, 0.5), shown(perplexity, 12.3456)) == ("50.0%", "12.35")
