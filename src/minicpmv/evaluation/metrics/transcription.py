"""Measures error rates of transcribed text: edits from the answer to the reference, per character or word.

Nothing is normalised. Over several records, all edits are divided by the total expected length: long texts weigh more.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from rapidfuzz.distance import Levenshtein

from minicpmv.evaluation.metrics.base import Metric, Sample, Statistics

__all__ = ["CharacterErrorRate", "WordErrorRate"]


class _ErrorRate(Metric):
    higher_is_better = False

    @abstractmethod
    def _split(self, text: str) -> Sequence[str]: ...

    def measure(self, sample: Sample) -> Statistics:
        answer = self._split(sample.answer)
        pairs = [
            (Levenshtein.distance(answer, expected), len(expected)) for expected in map(self._split, sample.references)
        ]
        return min(pairs, key=lambda pair: (pair[0] / max(pair[1], 1), pair[1]))

    def value(self, sums: Statistics) -> float:
        num_edits, num_expected = sums
        return num_edits / max(num_expected, 1)  # nothing was expected: each superfluous character is an error


class CharacterErrorRate(_ErrorRate):
    """Counts edits per expected character."""

    name = "cer"
    description = "character error rate; lower is better"

    def _split(self, text: str) -> str:
        return text


class WordErrorRate(_ErrorRate):
    """Counts edits per expected word, where words are separated by white space."""

    name = "wer"
    description = "word error rate, words separated by spaces; lower is better"

    def _split(self, text: str) -> list[str]:
        return text.split()
