"""Measures what an answer invents: yes/no questions about objects (POPE), and objects that a caption names (CHAIR).

Everything is matched by words; no model judges.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path

from minicpmv.errors import UsageError
from minicpmv.evaluation.metrics.base import MeanMetric, Metric, Sample, Statistics
from minicpmv.evaluation.metrics.text import split_words

__all__ = [
    "ObjectShare",
    "Objects",
    "SentenceShare",
    "YesNoAccuracy",
    "YesNoF1",
    "YesNoNeither",
    "YesNoPrecision",
    "YesNoRecall",
    "YesShare",
    "find_yes_no",
]

_WORD = re.compile(r"\b(?:(yes|yeah|yep)|no|nope|not|cannot)\b|n['’]t\b", re.IGNORECASE)
_CHINESE = re.compile(r"(?:(是|对|有|嗯)|不|没|否|无)")

_MOST_WORDS = 3
"""Most words in the name of one object; a longer text is a caption."""


def find_yes_no(text: str) -> bool | None:
    """Find whether a text says yes or no; None if it says neither.

    The first of the words yes, no, not, or one that ends in "n't", decides; a Chinese answer by its first character.
    POPE's own evaluation takes every answer without a no for a yes, and a no anywhere in the first sentence for a no.

    >>> [find_yes_no(text) for text in ("Yes, no doubt.", "There is no cat.", "There isn't.", "A cat.", "不是")]
    [True, False, False, None, False]
    """
    found = _CHINESE.match(text.strip()) or _WORD.search(text)
    return None if found is None else found[1] is not None


class _YesNo(Metric):
    """Counts answers to yes/no questions: true and false yes, false and true no, neither where yes and no was right."""

    expects = "a reference that says yes or no"

    def measure(self, sample: Sample) -> Statistics | None:
        right = next((said for said in map(find_yes_no, sample.references) if said is not None), None)
        if right is None:
            return None
        said = find_yes_no(sample.answer)
        cells = ((True, True), (True, False), (False, True), (False, False), (None, True), (None, False))
        return [float((said, right) == cell) for cell in cells]

    def score(self, statistics: Statistics) -> float:
        """Return whether the answer is right."""
        return statistics[0] + statistics[3]


class YesNoPrecision(_YesNo):
    """The share of right answers among those that say yes; 0 if none does."""

    name = "yes_no_precision"
    description = "POPE's precision: of the answers that say yes, the share for which yes is right"

    def value(self, sums: Statistics) -> float:
        return _share(sums[0], sums[0] + sums[1])


class YesNoRecall(_YesNo):
    """The share of yes among the questions for which yes is right; 0 if there is none."""

    name = "yes_no_recall"
    description = "POPE's recall: of the questions for which yes is right, the share answered with yes"

    def value(self, sums: Statistics) -> float:
        return _share(sums[0], sums[0] + sums[2] + sums[4])


class YesNoF1(_YesNo):
    """The harmonic mean of precision and recall."""

    name = "yes_no_f1"
    description = "POPE's F1: harmonic mean of yes_no_precision and yes_no_recall"

    def value(self, sums: Statistics) -> float:
        return _share(2 * sums[0], 2 * sums[0] + sums[1] + sums[2] + sums[4])


class _YesNoMean(MeanMetric):
    expects = _YesNo.expects

    def rate(self, sample: Sample) -> float | None:
        right = [said for said in map(find_yes_no, sample.references) if said is not None]
        return self.of(find_yes_no(sample.answer), right[0]) if right else None

    @abstractmethod
    def of(self, said: bool | None, right: bool) -> float:
        """Return a record's number from what was said and what is right."""


class YesNoAccuracy(_YesNoMean):
    """The share of right answers; one that says neither is wrong."""

    name = "yes_no_accuracy"
    description = "POPE's accuracy: share of yes/no questions answered rightly"

    def of(self, said: bool | None, right: bool) -> float:
        return float(said is right)


class YesShare(_YesNoMean):
    """The share of answers that say yes, which shows a leaning; neither good nor bad by itself."""

    name = "yes_no_share"
    description = "POPE's yes ratio: share of answers that say yes, right or wrong"

    def of(self, said: bool | None, right: bool) -> float:
        return float(said is True)


class YesNoNeither(_YesNoMean):
    """The share of answers that say neither yes nor no."""

    name = "yes_no_neither"
    description = "share of answers to yes/no questions that say neither, which count as wrong"
    higher_is_better = False
    names_records = "neither yes nor no"

    def of(self, said: bool | None, right: bool) -> float:
        return float(said is None)


class Objects:
    """Finds objects in texts by their names, in the singular or a regular plural; the longest name at a place counts.

    Args:
        groups: The names of each object, synonyms together.
    """

    def __init__(self, groups: Iterable[Iterable[str]] = ()) -> None:
        self._objects: dict[tuple[str, ...], set[tuple[str, ...]]] = {}
        """Every name with all names of its object, as words."""
        self._longest = 0
        for names in groups:
            self.add(names)

    def add(self, names: Iterable[str]) -> None:
        """Add an object; one that shares a name with a known one is the same."""
        group = {tuple(split_words(name)) for name in names} - {()}
        for known in [self._objects[name] for name in group if name in self._objects]:
            group |= known
        for name in group:
            self._objects[name] = group
            self._longest = max(self._longest, len(name))

    def find(self, text: str) -> list[tuple[str, ...]]:
        """Return the objects that a text names, one for each time, each by the first of its names in the alphabet."""
        words, found, start = split_words(text), [], 0
        while start < len(words):
            for length in range(min(self._longest, len(words) - start), 0, -1):
                *before, last = words[start : start + length]
                group = next(filter(None, (self._objects.get((*before, each)) for each in _singulars(last))), None)
                if group is not None:
                    found.append(min(group))
                    break
            else:
                length = 1
            start += length
        return found


class _Chair(Metric):
    """Compares the objects that an answer names with those of the references (Rohrbach et al., 2018, CHAIR).

    With a vocabulary, which is a file, the objects of a picture are those that any reference names: captions, or lists.
    Without one each reference is an object with its synonyms, and the vocabulary is what all references list.
    """

    higher_is_better = False
    takes_file = "a vocabulary: each line an object's names, separated by commas"
    expects = (
        "references that each name one object with its synonyms ('sofa, couch'), or a vocabulary for references that "
        "are captions (chair:FILE)"
    )

    def __init__(self) -> None:
        self.sees_all_first = True
        self._objects = Objects()

    def read_file(self, path: Path) -> None:
        """Take the vocabulary from a file.

        Raises:
            UsageError: It holds none.
        """
        lines = [line for line in path.read_text(encoding="utf-8-sig").splitlines() if not line.startswith("#")]
        self._objects = Objects(line.split(",") for line in lines)
        self.sees_all_first = False
        if not any(map(str.strip, lines)):
            raise UsageError(
                f"{path}: found no object, expected on each line an object's names, separated by commas\n"
                "  fix: write lines such as: sofa, couch"
            )

    def prepare(self, sample: Sample) -> None:
        if all(map(_is_object, sample.references)):
            for reference in sample.references:
                self._objects.add(reference.split(","))

    def measure(self, sample: Sample) -> Statistics | None:
        if self.sees_all_first and not all(map(_is_object, sample.references)):
            return None
        present = {each for reference in sample.references for each in self._objects.find(reference)}
        named = self._objects.find(sample.answer)
        return self.count(sum(each not in present for each in named), len(named))

    @abstractmethod
    def count(self, num_invented: int, num_named: int) -> Statistics:
        """Return a record's numbers from how many objects its answer names, and how many of them are not there."""

    def value(self, sums: Statistics) -> float:
        return _share(sums[0], sums[1])


class ObjectShare(_Chair):
    """CHAIR_i: of all mentions of objects, the share of those that the picture does not show; 0 without a mention."""

    name = "chair_i"
    description = "CHAIR_i: share of mentioned objects that are not in the picture"

    def count(self, num_invented: int, num_named: int) -> Statistics:
        return float(num_invented), float(num_named)


class SentenceShare(_Chair, MeanMetric):
    """CHAIR_s: the share of answers that mention an object that the picture does not show."""

    name = "chair_s"
    description = "CHAIR_s: share of answers that mention an object that is not in the picture"

    def count(self, num_invented: int, num_named: int) -> Statistics:
        return float(num_invented > 0), 1.0

    def rate(self, sample: Sample) -> float | None:
        found = self.measure(sample)
        return None if found is None else found[0]


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _is_object(reference: str) -> bool:
    return all(len(split_words(name)) <= _MOST_WORDS for name in reference.split(","))


def _singulars(word: str) -> Iterator[str]:
    """Yield the word as it is, and what it may be the regular plural of."""
    yield word
    for ending, instead in (("ies", "y"), ("ves", "f"), ("ves", "fe"), ("es", ""), ("s", "")):
        if word.endswith(ending):
            yield word.removesuffix(ending) + instead
