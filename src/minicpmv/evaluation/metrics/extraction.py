"""Measures answers in JSON: whether they parse, how many fields are right, and which are invented or missed."""

from __future__ import annotations

import json
import re
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

from minicpmv.evaluation.metrics.base import MeanMetric, Metric, Sample, Statistics

__all__ = ["JSONFieldAccuracy", "JSONInvented", "JSONMissed", "JSONValid"]

_FENCED = re.compile(r"```(?:json)?\s*\n(.*?)\n?\s*```", re.DOTALL | re.IGNORECASE)
_MISSING = object()
_UNREADABLE = object()


class JSONValid(MeanMetric):
    """Checks that the answer is JSON, alone or in a Markdown fence."""

    name = "json_valid"
    description = "whether the answer is JSON, alone or inside a ``` fence"
    needs_references = False

    def rate(self, sample: Sample) -> float:
        return float(_read(sample.answer) is not _UNREADABLE)


class JSONFieldAccuracy(Metric):
    """Measures the share of right fields among all fields of the reference or the answer.

    A field is a value that is neither an object nor a list, with the keys and positions that lead to it; an
    empty object or list is one, too. Numbers are compared as numbers, texts without surrounding white space. An answer
    that is not JSON has no field. Over several records all fields count alike.
    """

    name = "json_field_accuracy"
    description = "share of right JSON fields among those expected and those answered"
    expects = "a reference that is a JSON object or list"

    def measure(self, sample: Sample) -> Statistics | None:
        expected = [made for made in map(_read, sample.references) if isinstance(made, dict | list)]
        answered = dict(_fields(_read(sample.answer)))
        counts = [_count(answered, dict(_fields(made))) for made in expected]
        return max(counts, key=lambda pair: pair[0] / pair[1], default=None)

    def value(self, sums: Statistics) -> float:
        num_right, num_all = sums
        return num_right / num_all


class _ShareOfFields(Metric):
    """Counts the fields of one kind in the reference, and how many of them an answer gets wrong in one way.

    A field is empty that is null, an empty text, an empty list or an empty object. Over several records all fields
    count alike.
    """

    higher_is_better = False

    @abstractmethod
    def _is_asked(self, expected: Any) -> bool:
        """Return whether a field of the reference counts."""

    @abstractmethod
    def _is_wrong(self, *, is_filled: bool) -> bool:
        """Return whether an answer is wrong that fills such a field, or leaves it empty or out."""

    def measure(self, sample: Sample) -> Statistics | None:
        expected = [made for made in map(_read, sample.references) if isinstance(made, dict | list)]
        filled = [path for path, value in _fields(_read(sample.answer)) if not _is_empty(value)]
        counts = [self._count(filled, made) for made in expected]
        return min((pair for pair in counts if pair[1]), key=lambda pair: pair[0] / pair[1], default=None)

    def _count(self, filled: list[tuple[str | int, ...]], expected: Any) -> tuple[float, float]:
        asked = [path for path, value in _fields(expected) if self._is_asked(value)]
        wrong = [path for path in asked if self._is_wrong(is_filled=any(each[: len(path)] == path for each in filled))]
        return float(len(wrong)), float(len(asked))

    def value(self, sums: Statistics) -> float:
        num_wrong, num_all = sums
        return num_wrong / num_all


class JSONInvented(_ShareOfFields):
    """Measures the share of fields that the reference leaves empty and the answer fills."""

    name = "json_invented"
    description = "share of JSON fields that are empty in the reference, such as null, and filled in the answer"
    expects = "a reference in JSON with a field that is null or empty"

    def _is_asked(self, expected: Any) -> bool:
        return _is_empty(expected)

    def _is_wrong(self, *, is_filled: bool) -> bool:
        return is_filled


class JSONMissed(_ShareOfFields):
    """Measures the share of fields that have a value in the reference and none in the answer."""

    name = "json_missed"
    description = "share of JSON fields that have a value in the reference, and null, nothing or no place in the answer"
    expects = "a reference in JSON with a field that has a value"

    def _is_asked(self, expected: Any) -> bool:
        return not _is_empty(expected)

    def _is_wrong(self, *, is_filled: bool) -> bool:
        return not is_filled


def _is_empty(value: Any) -> bool:
    return value is None or value in ("", [], {}) or (isinstance(value, str) and not value.strip())


def _read(text: str) -> Any:
    fenced = _FENCED.fullmatch(text.strip())
    try:
        return json.loads(fenced[1] if fenced else text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return _UNREADABLE


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")  # Python reads NaN and Infinity


def _fields(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = False
    for key, entry in entries:
        found = True
        yield from _fields(entry, (*path, key))
    if not found and value is not _UNREADABLE:
        yield path, value


def _count(answered: dict[Any, Any], expected: dict[Any, Any]) -> tuple[float, float]:
    right = sum(_agree(answered.get(path, _MISSING), value) for path, value in expected.items())
    return float(right), float(len(answered.keys() | expected.keys()))


def _agree(answered: Any, expected: Any) -> bool:
    if isinstance(answered, bool) or isinstance(expected, bool):
        return answered is expected
    if isinstance(answered, str) and isinstance(expected, str):
        return answered.strip() == expected.strip()
    return answered == expected
