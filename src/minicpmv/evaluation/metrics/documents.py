"""Measures short answers about documents and charts, tolerating a typing error or a deviation of five per cent."""

from __future__ import annotations

import math

from rapidfuzz.distance import Levenshtein

from minicpmv.evaluation.metrics.base import MeanMetric, Sample

__all__ = ["ANLS", "RelaxedAccuracy"]

_TOLERATED = 0.05


class ANLS(MeanMetric):
    """Averages the normalised Levenshtein similarity, with the threshold of Biten et al., 2019 (arXiv:1905.13648)."""

    name = "anls"
    description = "average normalised Levenshtein similarity, 0 below one half (document questions)"

    def rate(self, sample: Sample) -> float:
        answer = _plain(sample.answer)
        return max(_similarity(answer, _plain(reference)) for reference in sample.references)


class RelaxedAccuracy(MeanMetric):
    """Accepts a number within five per cent of the reference, or the same text.

    Source: Methani et al., 2020, and ChartQA (Masry et al., 2022).

    As in the evaluation of Pix2Struct, a per cent sign divides by 100, and text is compared without regard to case.
    Answers to a reference of 0 are compared as text, too, since a relative tolerance has no meaning there.
    """

    name = "relaxed_accuracy"
    description = "a number within 5 % of the reference, or the same text (chart questions)"

    def rate(self, sample: Sample) -> float:
        return float(any(_is_near(sample.answer, reference) for reference in sample.references))


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def _similarity(answer: str, reference: str) -> float:
    distance = Levenshtein.normalized_distance(answer, reference)
    return 1 - distance if distance < 0.5 else 0.0


def _is_near(answer: str, reference: str) -> bool:
    found, expected = _number(answer), _number(reference)
    if found is not None and expected:
        return abs(found - expected) <= _TOLERATED * abs(expected)
    return answer.lower() == reference.lower()


def _number(text: str) -> float | None:
    try:
        number = float(text.removesuffix("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None  # "nan" and "infinity" are words
