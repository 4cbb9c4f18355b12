"""Measures captions and summaries: ROUGE-L and CIDEr, on lower-case words of letters and digits."""

from __future__ import annotations

import math
from collections import Counter
from itertools import chain

from rapidfuzz.distance import LCSseq

from minicpmv.evaluation.metrics.base import MeanMetric, Sample
from minicpmv.evaluation.metrics.text import split_words

__all__ = ["CIDEr", "RougeL"]

_MAX_ORDER = 4
_SIGMA = 6.0
_Grams = Counter[tuple[str, ...]]


class RougeL(MeanMetric):
    """F1 of the longest common subsequence of words (Lin, 2004), without stemming; the best of several references."""

    name = "rouge_l"
    description = "ROUGE-L: F1 of the longest common subsequence of words"

    def rate(self, sample: Sample) -> float:
        answer = split_words(sample.answer)
        return max(_f1(answer, split_words(reference)) for reference in sample.references)


class CIDEr(MeanMetric):
    """CIDEr-D (Vedantam et al., 2015, arXiv:1411.5726, section 5), times ten as is usual.

    The weight of an n-gram depends on how many measured records have it in a reference, so a value belongs to
    its set, and a set of one record scores 0. A count is kept for every n-gram of the references.
    """

    name = "cider"
    description = "CIDEr-D, 0 to 10, weights from the references of the set (captions)"
    is_share = False
    sees_all_first = True

    def __init__(self) -> None:
        self._num_records = 0
        self._num_with: _Grams = Counter()

    def prepare(self, sample: Sample) -> None:
        if sample.references:
            self._num_records += 1
            self._num_with.update(set(chain.from_iterable(_count_grams(reference) for reference in sample.references)))

    def rate(self, sample: Sample) -> float:
        answer = self._weigh(_count_grams(sample.answer))
        num_words = len(split_words(sample.answer))
        total = 0.0
        for reference in sample.references:
            expected = self._weigh(_count_grams(reference))
            apart = num_words - len(split_words(reference))
            penalty = math.exp(-(apart**2) / (2 * _SIGMA**2))
            total += penalty * sum(map(_cosine, answer, expected)) / _MAX_ORDER
        return 10 * total / len(sample.references)

    def _weigh(self, grams: _Grams) -> list[dict[tuple[str, ...], float]]:
        """Weight n-grams by rarity; one vector for each order."""
        weighed: list[dict[tuple[str, ...], float]] = [{} for _ in range(_MAX_ORDER)]
        for gram, count in grams.items():
            rarity = math.log(max(self._num_records, 1)) - math.log(max(self._num_with[gram], 1))
            weighed[len(gram) - 1][gram] = count * rarity
        return weighed


def _f1(answer: list[str], reference: list[str]) -> float:
    common = LCSseq.similarity(answer, reference)
    return 2 * common / (len(answer) + len(reference)) if common else 0.0


def _count_grams(text: str) -> _Grams:
    words = split_words(text)
    return Counter(
        tuple(words[start : start + order])
        for order in range(1, _MAX_ORDER + 1)
        for start in range(len(words) - order + 1)
    )


def _cosine(answer: dict[tuple[str, ...], float], expected: dict[tuple[str, ...], float]) -> float:
    """Compare two vectors, with the answer's counts clipped to the expected ones."""
    norms = math.hypot(*answer.values()) * math.hypot(*expected.values())
    clipped = sum(min(weight, expected[gram]) * expected[gram] for gram, weight in answer.items() if gram in expected)
    return clipped / norms if norms else 0.0
