"""Spells out the numbers of a table's text columns, and finds the column that was meant as the question.

In a CSV file every cell is text; a Parquet file, a pandas table and a data set of ``datasets`` hold the same labels or
counts as numbers. In JSON a number stays one: the author of a record chose its type.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

import numpy as np

from minicpmv.data.records.formats.pairs import ANSWERS, QUESTIONS

__all__ = ["CHOICES", "find_question", "spell_values"]

CHOICES = frozenset(("choices", "options"))
"""Keys under which other tools list answers to choose from; the answer is then the index of one."""
_TEXTS = (*QUESTIONS, "input", *ANSWERS, "rejected", "rejected_response", "system", "system_prompt")


def spell_values(row: dict[str, object]) -> dict[str, object]:
    """Return a row whose question and answer are text; the row itself where they are already.

    A row that lists choices stays: its number is the place of a choice, and no answer.

    >>> spell_values({"question": "How many?", "answer": 3, "id": 7})
    {'question': 'How many?', 'answer': '3', 'id': 7}
    """
    if not CHOICES.isdisjoint(row):
        return row
    spelled = {key: _spell(row[key]) for key in _TEXTS if key in row}
    return row if all(row[key] is value for key, value in spelled.items()) else row | spelled


def _spell(value: object) -> object:
    """Spell out a whole number, float or boolean, or those in a list; anything else stays, as infinity does."""
    if isinstance(value, list):
        entries = cast("list[object]", value)
        spelled = [_spell(each) for each in entries]
        return value if all(one is other for one, other in zip(spelled, entries, strict=True)) else spelled
    if isinstance(value, bool | int):
        return str(value)
    return _spell_float(value) if isinstance(value, float) and math.isfinite(value) else value


def _spell_float(value: float) -> str:
    """Spell out a float with the fewest digits: 0.1, not 0.10000000149011612, where a column has single precision."""
    with np.errstate(over="ignore"):
        single = np.float32(value)
    short, full = str(single), repr(value)
    return short if float(single) == value and "e" not in short and len(short) < len(full) else full


def find_question(fields: Mapping[str, object]) -> str | None:
    """Return the key that was probably meant as the question next to an answer; None unless just one may be.

    >>> find_question({"id": "7", "frage": "What?", "answer": "This.", "image": "a.png"})
    'frage'
    """
    if not any(key in fields for key in ANSWERS):
        return None
    known = {"id", "image", "images", "video", "videos", "references", "rejected", "system", "system_prompt", *ANSWERS}
    texts = [key for key, value in fields.items() if key not in known and isinstance(value, str)]
    return texts[0] if len(texts) == 1 else None
