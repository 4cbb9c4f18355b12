"""Measures VQA accuracy: an answer is right to the degree that the annotators agree with it.

The rule is that of VQA (Antol et al., 2015; Goyal et al., 2017): against each nine of the ten annotators, an answer
that three gave is right, and the mean of the ten comparisons counts. Where annotators disagree, texts are compared
as in VQA's evaluation: without articles and most punctuation, number words as digits, contractions with their
apostrophe.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from minicpmv.evaluation.metrics.base import MeanMetric, Sample

__all__ = ["VQAAccuracy", "normalise_vqa"]

_LEAST = 4
"""Fewest references: with fewer, no answer could agree with three others after one is left out."""
_SIGNS = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_POINT = re.compile(r"\.(?!\d)")
_ARTICLES = frozenset(("a", "an", "the"))
_IN_ORDER = "zero one two three four five six seven eight nine ten"
_NUMBERS = {word: str(number) for number, word in enumerate(_IN_ORDER.split())} | {"none": "0"}
_WITH_APOSTROPHE = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's
how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've o'clock
oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd
someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's
they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's
where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've
y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""
# A word that lacks one apostrophe gets it. "somebody'd" loses its own, as in the official table.
_CONTRACTIONS: Mapping[str, str] = {
    word[:place] + word[place + 1 :]: word
    for word in _WITH_APOSTROPHE.split()
    for place, sign in enumerate(word)
    if sign == "'"
} | {"somebody'd": "somebodyd"}


class VQAAccuracy(MeanMetric):
    """Measures the mean agreement with all but one of the annotators."""

    name = "vqa_accuracy"
    description = "agreement with ten annotators (VQA's rule); needs their answers in `references`"
    expects = f"at least {_LEAST} references, of ten annotators as a rule"

    def rate(self, sample: Sample) -> float | None:
        if len(sample.references) < _LEAST:
            return None
        answer, references = _one_line(sample.answer), [_one_line(reference) for reference in sample.references]
        if len(set(references)) > 1:
            answer, references = normalise_vqa(answer), [normalise_vqa(reference) for reference in references]
        agreeing = references.count(answer)
        # Leaving out an annotator who agrees lowers the count by one; leaving out another does not change it.
        others, without = min(1, agreeing / 3), min(1, (agreeing - 1) / 3)
        return (agreeing * max(without, 0) + (len(references) - agreeing) * others) / len(references)


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def normalise_vqa(text: str) -> str:
    """Normalise an answer as VQA's evaluation does.

    >>> normalise_vqa("The two dogs dont bark, do they?")
    "2 dogs don't bark do they"
    """
    joins = bool(_COMMA_IN_NUMBER.search(text))
    stripped = text
    for sign in _SIGNS:
        at_edge = f"{sign} " in text or f" {sign}" in text
        stripped = stripped.replace(sign, "" if at_edge or joins else " ")
    words = (_NUMBERS.get(word, word) for word in _POINT.sub("", stripped).lower().split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)
