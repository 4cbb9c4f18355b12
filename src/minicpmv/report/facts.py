"""Checks the content of ``run.json`` and related files before a page is made: damaged values are left out and named."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, TypeGuard, cast

__all__ = ["check_facts", "check_state", "check_verification", "is_number", "is_step"]

_MOST = 2**53
"""Larger than any count of a run, and still exact in the page's script."""

Check = Callable[[Any], str | None]
"""Returns what a value should be, or None if it is fine."""


def is_number(value: object) -> TypeGuard[int | float]:
    """Return whether a value of the log is a number, infinity included."""
    return isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool) and abs(value) < _MOST)


def is_step(value: object) -> TypeGuard[int]:
    """Return whether a value can be a step of a run."""
    return is_number(value) and isinstance(value, int) and value >= 0


def check_facts(facts: Mapping[str, Any], faults: list[str]) -> dict[str, Any]:
    """Return the content of ``run.json`` without damaged values.

    Args:
        facts: Its content.
        faults: Receives a line for each value that is left out.
    """
    return _without_damaged(facts, _FACTS, "run.json", faults)


def check_verification(verification: Mapping[str, Any], faults: list[str]) -> dict[str, Any]:
    """Return the content of ``verification.json`` without damaged values, like ``check_facts``."""
    return _without_damaged(
        verification, {"verdict": _text, "tensors": _optional(identical=_amount)}, "verification.json", faults
    )


def check_state(state: Mapping[str, Any], faults: list[str]) -> dict[str, Any]:
    """Return the content of ``trainer_state.json`` without damaged values, like ``check_facts``."""
    return _without_damaged(state, {"max_steps": _amount, "log_history": _list(_any)}, "trainer_state.json", faults)


def _without_damaged(
    given: Mapping[str, Any], checks: Mapping[str, Check], file: str, faults: list[str]
) -> dict[str, Any]:
    kept = dict(given)
    for name, check in checks.items():
        value = kept.get(name)
        expected = None if value is None else check(value)
        if expected is not None:
            del kept[name]
            faults.append(f"a damaged value in {file}, which is left out: {name}, expected {expected}")
    return kept


def _any(value: Any) -> None:
    return None


def _text(value: Any) -> str | None:
    return None if isinstance(value, str) else "a text"


def _number(value: Any) -> str | None:
    return None if is_number(value) and math.isfinite(value) and abs(value) < _MOST else "a finite number"


def _amount(value: Any) -> str | None:
    return None if _number(value) is None and value >= 0 else "a number of at least 0"


def _whole(value: Any) -> str | None:
    return None if is_step(value) else "a whole number of at least 0"


def _date(value: Any) -> str | None:
    try:
        datetime.fromisoformat(value).timestamp()
    except (TypeError, ValueError, OverflowError, OSError):
        return "a date and a time"
    return None


def _list(of: Check) -> Check:
    def check(value: Any) -> str | None:
        if not isinstance(value, list):
            return "a list"
        wrong = next((expected for each in cast("list[Any]", value) if (expected := of(each)) is not None), None)
        return None if wrong is None else f"a list with each element {wrong}"

    return check


def _object(needed: Mapping[str, Check], optional: Mapping[str, Check]) -> Check:
    def check(value: Any) -> str | None:
        if not isinstance(value, dict):
            return "an object"
        fields = cast("dict[str, Any]", value)
        for name, of in {**needed, **optional}.items():
            expected = of(fields[name]) if fields.get(name) is not None else "something" if name in needed else None
            if expected is not None:
                return f"an object with {name!r}, {expected}"
        return None

    return check


def _optional(**fields: Check) -> Check:
    return _object({}, fields)


_COUNTED = ("tokens", "trained_tokens", "image_tokens", "records_with_images")
_SPREAD = _object(dict.fromkeys(("min", "max", "median", "p95"), _amount), {})


def _statistics(value: Any) -> str | None:
    """Check the statistics of data; those of tokens are present together or not at all."""
    needed: dict[str, Check] = {"records": _whole, "validation_records": _whole}
    if isinstance(value, dict) and "tokens" in value:
        needed |= dict.fromkeys((*_COUNTED, "records_with_fewer_slices", "records_with_cut_answers"), _whole)
        needed |= {"record_lengths": _SPREAD}
    histogram = _optional(counts=_list(_whole), edges=_list(_amount))
    return _object(needed, {"length_histogram": histogram})(value)


_SOURCES = _list(_optional(path=_text, sha256=_text, weight=_number))
_FACTS: Mapping[str, Check] = {
    "status": _text,
    "started": _date,
    "stopped_by": _text,
    "command": _text,
    "working_directory": _text,
    "base_model": _optional(path=_text, model=_text),
    "data": _SOURCES,
    "eval_data": _SOURCES,
    "processes": _whole,
    "device": _text,
    "plan": _object(dict.fromkeys(("records_per_step", "steps_per_epoch"), _amount), {"tokens_per_step": _amount}),
    "data_statistics": _statistics,
    "trained": _list(
        _object(
            {"part": _text, "parameters": _whole, "trainable": _whole, "how": _text},
            {"learning_rates": _list(_number), "weight_decays": _list(_number)},
        )
    ),
    "arguments": _optional(),
    "training_arguments": _optional(max_steps=_number, num_train_epochs=_amount),
    "versions": _optional(),
    "metrics": _optional(train_runtime=_amount),
    "log": _list(_any),
}
