"""Reads the value of one setting from text, alike from a command line and from a file; only errors name the place."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from minicpmv.errors import UsageError
from minicpmv.training.flags.fields import Range, Setting
from minicpmv.wording import FALSE, TRUE, suggest

__all__ = ["Place", "check_range", "describe_expected", "give_example", "read_values"]

_FINITE = Range(least=-3e38)
_FEWEST_LETTERS = 3
"""Fewer begin too many names."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value was written, for messages."""

    where: str
    """``--lora_r``, or ``run.yaml:4 lora_r``."""
    written: str
    """What a value is written behind there: ``--lora_r `` or ``lora_r: ``."""

    @classmethod
    def flag(cls, name: str) -> Place:
        """Return the place of a flag on the command line."""
        return cls(f"--{name}", f"--{name} ")


def read_values(setting: Setting, values: Sequence[str], place: Place) -> Any:
    """Read what was written of a setting.

    Args:
        setting: The setting.
        values: The words behind its name: several for a list; none, where its name alone means something.
        place: Where they were written.

    Raises:
        UsageError: A word is of another kind, none of the choices, or missing.
    """
    if setting.kind.is_list and values:
        return [_read_value(setting, value, place) for value in values]
    bare = setting.bare or ("true" if setting.kind.of.startswith("truth") else None)
    if not values and bare is None:
        raise UsageError(f"{place.where}: found no value, expected {describe_expected(setting)}\n  fix: add it")
    return _read_value(setting, values[0] if values else str(bare), place)


def _read_value(setting: Setting, text: str, place: Place) -> Any:
    kind = setting.kind
    is_truth = kind.of.startswith("truth") and text.lower() in TRUE + FALSE
    if kind.choices and text not in kind.choices + kind.refused and not is_truth:
        advice = _advise(text, kind.choices)
        raise UsageError(f"{place.where}: found {text!r}, expected {describe_expected(setting)}\n  fix: {advice}")
    try:
        match kind.of:
            case "truth" | "truth or word" if is_truth:
                return text.lower() in TRUE
            case "text" | "truth or word":
                if text and not text.strip():  # an empty text says that something is off, a blank one nothing
                    raise UsageError(
                        f"{place.where}: found {text!r}, expected a text that is not blank\n"
                        "  fix: write one, or leave it out"
                    )
                return text
            case "truth":
                raise ValueError(text)
            case "whole number":
                return int(text)
            case "number":
                value = float(text)
            case "object":
                return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"{place.where}: found {text!r}, expected {describe_expected(setting)}\n"
            f"  fix: {place.written}{give_example(setting)}"
        ) from error
    if value == 1 and setting.range is not None and setting.range.is_step and not text.strip("+ ").isdigit():
        raise UsageError(  # 1 is a number of steps and 0.5 is half of the run, so either may have been meant
            f"{place.where}: found {text}, expected a share below 1, or a number of steps in digits alone\n"
            "  fix: 1 is one step; a whole run has no share"
        )
    return value


def _advise(text: str, choices: Sequence[str]) -> str:
    """Name the choice that was meant: the first that begins so, such as adamw_torch for adam, else the nearest."""
    begun = [each for each in choices if each.startswith(text.lower())] if len(text) >= _FEWEST_LETTERS else []
    return f"did you mean {begun[0]}?" if begun else suggest(text, choices, otherwise="choose one of these")


def check_range(value: Any, allowed: Range | None, place: Place, *, default: Any = None) -> None:
    """Refuse a number that no run can work with.

    Args:
        value: As given; anything but a number passes.
        allowed: The numbers it may be; None: any finite one.
        place: Where it was written.
        default: The setting's own value, which is suggested in place of a number that is too small.

    Raises:
        UsageError: The number is not finite, or out of its range.
    """
    allowed = allowed or _FINITE
    if isinstance(value, bool) or not isinstance(value, int | float) or allowed.holds(value):
        return
    found = f"{value:g}" if isinstance(value, float) else str(value)
    instead = f"; {allowed.instead}" if allowed.instead else ""
    raise UsageError(
        f"{place.where}: found {found}, expected {allowed.describe(value)}\n"
        f"  fix: {_advise_number(value, allowed, place, default)}{instead}"
    )


def _advise_number(value: float, allowed: Range, place: Place, default: Any) -> str:
    """Word what to write in place of a number that is out of its range."""
    if allowed.is_open and value > allowed.most:
        return "lower it, or leave it out"
    is_known = isinstance(default, int | float) and not isinstance(default, bool) and default > 0
    if is_known and not value > allowed.most and allowed.holds(default):
        return f"{place.written}{default:g}"
    return f"{place.written}{allowed.example(is_whole=isinstance(value, int), instead_of=value)}"


def give_example(setting: Setting) -> str:
    """Return a value of the setting as it is written on a command line: its default, if that does something."""
    if isinstance(setting.default, int | float) and not isinstance(setting.default, bool) and setting.default > 0:
        return f"{setting.default:g}"
    if setting.range is not None:
        return setting.range.example(is_whole=setting.kind.of == "whole number")
    if setting.kind.choices:
        return setting.kind.choices[0]
    values = {"truth": "true", "whole number": "1", "number": "0.5", "object": "'{\"name\": 1}'"}
    return values.get(setting.kind.of, "TEXT")


def describe_expected(setting: Setting) -> str:
    """Say what a setting may be."""
    if setting.kind.choices:
        truths = ["true", "false"] if setting.kind.of == "truth or word" else []
        return f"one of {', '.join([*truths, *setting.kind.choices])}"
    words = {
        "truth": "true or false",
        "whole number": "a whole number",
        "number": "a number",
        "object": "an object in JSON",
    }
    return words.get(setting.kind.of, "a text")
