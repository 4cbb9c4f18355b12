"""States what a setting of answering may be, once for the flags of commands and for Python.

It needs no torch, so that a wrong flag is refused at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import cast

from minicpmv.errors import UsageError

__all__ = ["COUNT", "FROM_ZERO", "LIMITS", "OF_SAMPLING", "POSITIVE", "SEED", "SHARE", "Limit", "refuse_idle"]


@dataclass(frozen=True, slots=True)
class Limit:
    """Says which numbers a setting may have."""

    expected: str
    """In words, for a message."""
    holds: Callable[[float], bool]
    is_whole: bool = False

    def allows(self, value: object) -> bool:
        """Return whether a value is such a number. NumPy's numbers are numbers, a text or True is none."""
        if isinstance(value, bool) or not isinstance(value, Integral if self.is_whole else Real):
            return False
        number = cast("float", value)
        return abs(number) < math.inf and self.holds(number)  # no isfinite: it refuses a huge int by OverflowError

    def read(self, text: str) -> float | None:
        """Return the number that a text states, an ``int`` if it must be whole; None if the setting may not be that."""
        try:
            value = int(text) if self.is_whole else float(text)
        except ValueError:
            return None
        return value if self.allows(value) else None

    def check(self, name: str, value: object) -> None:
        """Refuse a value from Python.

        Args:
            name: Of the argument.
            value: As given.

        Raises:
            UsageError: It is not allowed.
        """
        if not self.allows(value):
            raise UsageError(f"{name}: found {value!r}, expected {self.expected}\n  fix: give such a number")


COUNT = Limit("a whole number of at least 1", lambda value: value >= 1, is_whole=True)
POSITIVE = Limit("a number above 0", lambda value: value > 0)
FROM_ZERO = Limit("a number of at least 0", lambda value: value >= 0)
SHARE = Limit("a number above 0 and at most 1", lambda value: 0 < value <= 1)
SEED = Limit("a whole number of at least 0 and at most 63 bits", lambda value: 0 <= value < 2**63, is_whole=True)

LIMITS: Mapping[str, Limit] = {
    "max_new_tokens": COUNT,
    "temperature": POSITIVE,
    "top_p": SHARE,
    "top_k": COUNT,
    "repetition_penalty": POSITIVE,
    "max_slice_nums": COUNT,
}
"""The numbers among the settings of generation."""
OF_SAMPLING = ("temperature", "top_p", "top_k")
"""Settings that change nothing without sampling."""


def refuse_idle(given: Mapping[str, object], *, sample: bool, as_flags: bool = False) -> None:
    """Refuse a setting of sampling where the likeliest token is taken.

    Args:
        given: Settings that need sampling by their names; None for one that was not given.
        sample: Whether tokens are drawn at random.
        as_flags: Whether the settings were written as flags, which a message then shows.

    Raises:
        UsageError: One is given, and could not act.
    """
    for name, value in given.items():
        if value is None or sample:
            continue
        shown, switch = (f"--{name.replace('_', '-')}", "--sample") if as_flags else (name, "sample=True")
        raise UsageError(
            f"{shown}: found without {switch}, expected both: the likeliest token is always taken otherwise\n"
            f"  fix: add {switch}, or remove {shown}"
        )
