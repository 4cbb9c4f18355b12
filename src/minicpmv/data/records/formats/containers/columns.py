"""Holds what all tables share: each column has a name of its own, and a type that decides how its values are written.

A value alone does not tell its type: a float of half precision is ``0.1`` in its column and ``0.0999755859375`` as
Python's, and a column of days is one of times at midnight. Where a question or an answer is such a value, it is spelled
as the CSV file of the table has it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import cast

import numpy as np

from minicpmv.data.records.formats.pairs import CHOICES, TEXTS
from minicpmv.data.records.record import quote
from minicpmv.errors import DataError, Problem

__all__ = ["check_names", "find_forms", "spell_cells"]

_FLOATS = {"float16": np.float16, "halffloat": np.float16, "float32": np.float32, "float": np.float32}
"""Types with fewer digits than Python's floats, by their names in pandas and ``datasets``, and in Arrow."""
_TIMES = ("datetime64", "timestamp")
_DAY = "day"


def check_names(names: Iterable[object], where: str, fix: str = "rename or remove one of them") -> None:
    """Refuse a table with two columns of one name: a row would hold the value of one of them.

    Args:
        names: Of the columns.
        where: Place of the names.
        fix: What to do.

    Raises:
        DataError: A name stands twice.
    """
    repeated = [name for name, count in Counter(map(str, names)).items() if count > 1]
    if repeated:
        found = f"the column {quote(repeated[0])} more than once"
        raise DataError([Problem("D173", where, found, "a header with the name of each column, once", fix)])


def find_forms(types: Mapping[str, str], values_of: Callable[[str], Iterable[object]]) -> dict[str, str]:
    """Return how the values of each column are spelled, for those questions and answers whose type decides it.

    Args:
        types: The name of each column's type, of its entries if they are lists.
        values_of: Returns all values of a column; called for columns of times alone.
    """
    if not CHOICES.isdisjoint(types):  # a number there is the place of a choice, and no text
        return {}
    forms: dict[str, str] = {}
    for name in TEXTS:
        kind = types.get(name, "").removesuffix("[pyarrow]")
        if kind in _FLOATS:
            forms[name] = kind
        elif kind.startswith(_TIMES):
            forms[name] = _form_of_times(_times_in(values_of(name)))
    return forms


def _times_in(values: object) -> Iterator[datetime]:
    if isinstance(values, datetime):
        if values == values:
            yield values
    elif isinstance(values, Iterable) and not isinstance(values, str | bytes):
        for each in cast("Iterable[object]", values):
            yield from _times_in(each)


def _form_of_times(times: Iterable[datetime]) -> str:
    """Return the fewest digits that tell all times of a column, as pandas writes them: days, or thousands of a second.

    >>> _form_of_times([datetime(2024, 1, 2), datetime(2024, 1, 3)])
    'day'
    >>> _form_of_times([datetime(2024, 1, 2), datetime(2024, 1, 3, 10, 0, 0, 500000)])
    'milliseconds'
    """
    level, is_day = 0, True
    for time in times:
        nanoseconds = time.microsecond * 1000 + getattr(time, "nanosecond", 0)
        while nanoseconds % 10 ** (9 - 3 * level):
            level += 1
        is_day = is_day and time.tzinfo is None and not (nanoseconds or time.hour or time.minute or time.second)
    return _DAY if is_day else ("seconds", "milliseconds", "microseconds", "nanoseconds")[level]


def spell_cells(row: dict[str, object], forms: Mapping[str, str]) -> dict[str, object]:
    """Return a row with text in place of the values of some columns.

    Args:
        row: The row.
        forms: From :func:`find_forms`.
    """
    return row | {name: _spell(row[name], form) for name, form in forms.items() if name in row}


def _spell(value: object, form: str) -> object:
    """Spell out a value; what is missing stays, and so does infinity, which is no text to learn."""
    if isinstance(value, list | tuple | np.ndarray):
        return [_spell(each, form) for each in cast("Iterable[object]", value)]
    if form in _FLOATS:
        is_number = isinstance(value, float | np.floating) and math.isfinite(value)
        return str(_FLOATS[form](value)) if is_number else value
    if not isinstance(value, datetime) or value != value:
        return value
    return value.date().isoformat() if form == _DAY else value.isoformat(" ", timespec=form)
