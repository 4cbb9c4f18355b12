"""Subsets of the demo's handwritten digits: nested, with as many of each digit as there are to be had.

One record is one digit as it was collected. The turned copies, which the demo's own training file has, are left out, so
that a number of records is a number of different pictures.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from minicpmv.demo.data import Digit, digits_of, write_split

__all__ = ["ALL_DIGITS", "first_digits", "write_digits"]

ALL_DIGITS = 1197


def first_digits(number: int) -> list[Digit]:
    """Return that many digits of the training split: a part of what a larger number gives, in the order of the data.

    Each kind of digit gives one after the other, so that any number is balanced to within one.
    """
    by_value: dict[int, list[Digit]] = {value: [] for value in range(10)}
    for digit in sorted(digits_of("train"), key=lambda each: hashlib.sha256(f"subset {each.index}".encode()).digest()):
        by_value[digit.value].append(digit)
    rounds = max(map(len, by_value.values()))
    dealt = [same[place] for place in range(rounds) for same in by_value.values() if place < len(same)]
    return sorted(dealt[:number], key=lambda digit: digit.index)


def write_digits(folder: Path, number: int) -> Path:
    """Write a subset's pictures and records under ``folder``, and return the data file."""
    return write_split(folder, "validation", first_digits(number))  # that split has no copies
