"""Computes BLEU and chrF with sacrebleu, from 0 to 100.

Only this module imports the package. It calls two private methods, the halves of ``corpus_score``: one reduces
each sentence to numbers, the other scores their sum. That may go when sacrebleu has a public way to score a sum.
"""

from __future__ import annotations

import importlib
from typing import Any

from minicpmv.errors import ConfigError
from minicpmv.evaluation.metrics.base import Metric, Sample, Statistics
from minicpmv.machine.installed import extra, install_command

__all__ = ["BLEU", "ChineseBLEU", "ChrF"]


def _load_sacrebleu() -> Any:
    try:
        return importlib.import_module("sacrebleu.metrics")
    except ImportError as error:
        raise ConfigError(
            f"metric bleu or chrf: found no sacrebleu, expected the package\n  fix: {install_command(extra('metrics'))}"
        ) from error


class _OfSacrebleu(Metric):
    is_share = False
    _corpus: Any
    _sentence: Any

    def measure(self, sample: Sample) -> Statistics:
        references = [[reference] for reference in sample.references]
        (statistics,) = self._corpus._extract_corpus_statistics([sample.answer], references)
        return [float(number) for number in statistics]

    def value(self, sums: Statistics) -> float:
        return float(self._corpus._compute_score_from_stats(list(sums)).score)

    def score(self, statistics: Statistics) -> float:
        return float(self._sentence._compute_score_from_stats(list(statistics)).score)


class BLEU(_OfSacrebleu):
    """Computes BLEU of a set; for a single record with as many orders of n-grams as its words allow."""

    name = "bleu"
    description = "sacrebleu's BLEU, 0 to 100 (words by its tokenizer 13a)"
    _tokenizer = "13a"

    def __init__(self) -> None:
        made = _load_sacrebleu().BLEU
        self._corpus = made(tokenize=self._tokenizer)
        self._sentence = made(tokenize=self._tokenizer, effective_order=True)


class ChineseBLEU(BLEU):
    """Computes BLEU for Chinese, with each character as a word."""

    name = "bleu_zh"
    description = "sacrebleu's BLEU for Chinese, 0 to 100 (its tokenizer zh)"
    _tokenizer = "zh"


class ChrF(_OfSacrebleu):
    """Computes chrF2: character n-grams up to 6, with recall counting twice."""

    name = "chrf"
    description = "sacrebleu's chrF2, 0 to 100"

    def __init__(self) -> None:
        self._corpus = self._sentence = _load_sacrebleu().CHRF()
