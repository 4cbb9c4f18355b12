"""Rules for values in JSON files that somebody else wrote: of which type they are, the least and the most of them.

A table of rules is checked in one pass, before anything is made of the values. Which rules hold for which file is in
``file_bounds``. A key without a rule may hold anything; whoever reads it adds one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from minicpmv.errors import CheckpointError
from minicpmv.wording import name_type

__all__ = [
    "FLAG",
    "Digits",
    "Either",
    "ListOf",
    "Mapped",
    "Nothing",
    "Number",
    "Object",
    "OneOf",
    "Rule",
    "Text",
    "check_fields",
    "or_null",
    "quote",
    "whole",
]

_MOST_QUOTED = 80


class Rule(Protocol):
    """Says which values are sound."""

    @property
    def expected(self) -> str:
        """What a message says is expected."""
        ...

    def fault(self, value: object) -> tuple[str, object, str] | None:
        """Return the place below the value, what was found there and what was expected; None if it is sound."""
        ...


@dataclass(frozen=True, slots=True)
class Number:
    """A finite number between two others, both included."""

    least: float
    most: float
    is_whole: bool = False
    is_above: bool = False
    """Whether ``least`` itself is too little."""

    @property
    def expected(self) -> str:
        kind = "a whole number" if self.is_whole else "a number"
        return f"{kind} {'above' if self.is_above else 'from'} {self.least:,} to {self.most:,}"

    def fault(self, value: Any) -> tuple[str, object, str] | None:
        types = int if self.is_whole else (int, float)
        is_number = isinstance(value, types) and not isinstance(value, bool)
        if is_number and self.least <= value <= self.most and not (self.is_above and value == self.least):
            return None
        return "", value, self.expected


def whole(least: int, most: int) -> Number:
    """Make the rule for a whole number."""
    return Number(least, most, is_whole=True)


@dataclass(frozen=True, slots=True)
class OneOf:
    """One of a few values."""

    values: tuple[Any, ...]

    @property
    def expected(self) -> str:
        return " or ".join("null" if value is None else quote(value) for value in self.values)

    def fault(self, value: object) -> tuple[str, object, str] | None:
        # By type too, because 1 == True.
        is_one = any(type(value) is type(one) and value == one for one in self.values)
        return None if is_one else ("", value, self.expected)


FLAG = OneOf((True, False))


@dataclass(frozen=True, slots=True)
class Text:
    """A string of limited length."""

    most: int = 1000
    """Characters."""

    @property
    def expected(self) -> str:
        return f"a text of at most {self.most:,} characters"

    def fault(self, value: object) -> tuple[str, object, str] | None:
        return None if isinstance(value, str) and len(value) <= self.most else ("", value, self.expected)


@dataclass(frozen=True, slots=True)
class Digits:
    """A whole number from 0, written as a text: JSON has no other keys."""

    most: int

    @property
    def expected(self) -> str:
        return f"a whole number from 0 to {self.most:,}"

    def fault(self, value: Any) -> tuple[str, object, str] | None:
        is_number = isinstance(value, str) and len(value) < 20 and value.isascii() and value.isdigit()
        return None if is_number and int(value) <= self.most else ("", value, self.expected)


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list of limited length."""

    item: Rule
    least: int = 0
    most: int = 100_000

    @property
    def expected(self) -> str:
        count = f"{self.least}" if self.least == self.most else f"{self.least} to {self.most:,}"
        return f"a list of {count}, each {self.item.expected}"

    def fault(self, value: object) -> tuple[str, object, str] | None:
        if not isinstance(value, list):
            return "", value, self.expected
        if not self.least <= len(value) <= self.most:
            return "", f"{len(value)} of them", self.expected
        for index, item in enumerate(value):
            if found := self.item.fault(item):
                place, what, expected = found
                return f"[{index}]{place}", what, expected
        return None


@dataclass(frozen=True, slots=True)
class Mapped:
    """An object whose keys are data, such as names of modules."""

    value: Rule
    key: Rule = Text(1000)
    most: int = 100_000

    @property
    def expected(self) -> str:
        return f"an object of at most {self.most:,} values, each {self.value.expected}"

    def fault(self, value: object) -> tuple[str, object, str] | None:
        if not isinstance(value, dict):
            return "", value, self.expected
        if len(value) > self.most:
            return "", f"{len(value)} of them", self.expected
        for name, item in value.items():
            if found := self.key.fault(name):
                return "", name, f"as a key {found[2]}"
            if found := self.value.fault(item):
                place, what, expected = found
                return f"[{quote(name)}]{place}", what, expected
        return None


@dataclass(frozen=True, slots=True)
class Object:
    """An object whose keys are known, each with its rule."""

    fields: Mapping[str, Rule]
    needed: tuple[str, ...] = ()
    """Keys that must be there."""

    @property
    def expected(self) -> str:
        return "an object" + (f" with {', '.join(self.needed)}" if self.needed else "")

    def fault(self, value: object) -> tuple[str, object, str] | None:
        if not isinstance(value, dict):
            return "", value, self.expected
        if any(name not in value for name in self.needed):
            return "", value, self.expected
        for name, rule in self.fields.items():
            if name in value and (found := rule.fault(value[name])):
                place, what, expected = found
                return f".{name}{place}", what, expected
        return None


@dataclass(frozen=True, slots=True)
class Either:
    """A value that one of several rules holds for."""

    rules: tuple[Rule, ...]

    @property
    def expected(self) -> str:
        return ", or ".join(rule.expected for rule in self.rules)

    def fault(self, value: object) -> tuple[str, object, str] | None:
        faults = [rule.fault(value) for rule in self.rules]
        if None in faults:
            return None
        # The rule that went deepest is the one that was meant.
        place, what, expected = max((fault for fault in faults if fault), key=lambda fault: len(fault[0]))
        return (place, what, expected) if place else ("", what if isinstance(what, str) else value, self.expected)


@dataclass(frozen=True, slots=True)
class Nothing:
    """A value that nobody may set: null, or an empty list, object or text."""

    why: str

    @property
    def expected(self) -> str:
        return f"null: {self.why}"

    def fault(self, value: object) -> tuple[str, object, str] | None:
        is_empty = value is None or value is False or (isinstance(value, (list, dict, str)) and not value)
        return None if is_empty else ("", value, self.expected)


def or_null(rule: Rule) -> Either:
    """Make the rule for a value that may be null instead."""
    return Either((rule, OneOf((None,))))


def check_fields(fields: object, table: Mapping[str, Rule], *, where: object, fix: str) -> None:
    """Make sure that a file's values are sound.

    Args:
        fields: What the file holds.
        table: The rule for each key.
        where: The file, for the message.
        fix: What mends it.

    Raises:
        CheckpointError: One is not.
    """
    found = Object(table).fault(fields)
    if found:
        place, what, expected = found
        key = f": {place.removeprefix('.')}" if place else ""
        raise CheckpointError(f"{where}{key}: found {quote(what)}, expected {expected}\n  fix: {fix}")


def quote(value: object) -> str:
    """Write a value for a message: short, without line ends and control characters."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, (list, dict)) and len(value) > 20:
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value):,}"
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested without end; a number of too many digits
        text = name_type(value)
    return text if len(text) <= _MOST_QUOTED else f"{text[:_MOST_QUOTED]}..."
