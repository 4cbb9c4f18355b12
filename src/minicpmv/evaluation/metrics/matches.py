"""Measures whether a whole answer is right: word for word, apart from spelling, or by the letter of a choice."""

from __future__ import annotations

import re

from minicpmv.evaluation.metrics.base import MeanMetric, Sample
from minicpmv.evaluation.metrics.text import normalise

__all__ = ["ChoiceAccuracy", "ExactMatch", "NormalizedMatch", "find_choice"]

# Tried in this order; the first form that matches decides.
_CHOICES = (
    re.compile(r"[(\[*]*([A-Za-z])[)\]*.:、．：)]*"),  # the letter alone
    re.compile(r"[(\[*]*([A-Z])(?:[)\]*]+|[)\]*]*[.:、．：)])(?=\s|$|\w).*", re.DOTALL),  # "B. A cat", "(B) a cat"
)
_NAMED = re.compile(
    r"(?i:\b(?:answer|option|choice)\b(?:\s+is)?|答案(?:是|为)?|选项?)\s*[:：]?\s*[(\[*]*([A-Z])(?![A-Za-z'])"
)
_IN_BRACKETS = re.compile(r"\(([A-Z])\)")


class ExactMatch(MeanMetric):
    """Checks that the answer equals a reference, character for character."""

    name = "exact_match"
    description = "share of answers that equal a reference exactly"

    def rate(self, sample: Sample) -> float:
        return float(sample.answer in sample.references)


class NormalizedMatch(MeanMetric):
    """Checks the same without regard to case, punctuation and articles."""

    name = "normalized_match"
    description = "exact_match without regard to case, punctuation, articles and spaces (SQuAD's rule)"

    def rate(self, sample: Sample) -> float:
        answer = normalise(sample.answer)
        return float(any(answer == normalise(reference) for reference in sample.references))


class ChoiceAccuracy(MeanMetric):
    """Checks that the answer chooses the same letter as a reference."""

    name = "choice_accuracy"
    description = "share of answers that name the letter of the right choice"
    expects = "a reference that names a letter, such as 'B' or 'B. A cat'"

    def rate(self, sample: Sample) -> float | None:
        right = {find_choice(reference) for reference in sample.references} - {None}
        return float(find_choice(sample.answer) in right) if right else None


def find_choice(text: str) -> str | None:
    """Find the letter that a text chooses, or None.

    It takes the letter alone, with or without brackets or a sign after it, in either case; or a capital letter with
    such a sign at the beginning; or the last capital letter after "answer", "option" or "choice" (答案, 选); or the
    only capital letter in round brackets.

    >>> [find_choice(text) for text in ("b", "B. A cat", "The answer is (C).", "It is (D), a cat", "A cat")]
    ['B', 'B', 'C', 'D', None]
    """
    text = text.strip()
    for form in _CHOICES:
        if match := form.fullmatch(text):
            return match[1].upper()
    if named := _NAMED.findall(text):
        return named[-1]
    bracketed = set(_IN_BRACKETS.findall(text))
    return bracketed.pop() if len(bracketed) == 1 else None
