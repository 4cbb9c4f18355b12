"""Checks what ``run.json`` and its neighbours hold before a page is made: damaged values are left out and named."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, TypeGuard, cast

__all__ = ["check_facts", "check_state", "check_verification", "is_number", "is_step"]

_MOST = 2**53
"""More than any run counts, and what a page's script can still count."""

Check = Callable[[Any], str | None]
"""Says what a value should be; None if it is."""


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a value of the log can be drawn or printed as a number, be it infinite."""
    return isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool) and abs(value) < _MOST)


def is_step(value: object) -> TypeGuard[int]:
    """Whether it can be a step of a run."""
    return is_number(value) and isinstance(value, int) and value >= 0


def check_facts(facts: Mapping[str, Any], faults: list[str]) -> dict[str, Any]:
    """Return what ``run.json`` holds without what is damaged.

    Args:
        facts: What it holds.
        faults: Told of what is left out.
    """
    return _without_damaged(facts, _FACTS, "run.json", faults)


def check_verification(verification: Mapping[str, Any], faults: list[str]) -> dict[str, Any]:
    """Return what ``verification.json`` holds without what is damaged; as ``check_facts``."""
    return _without_damaged(
        verification, {"verdict": _text, "tensors": _optional(identical=_amount)}, "verification.json", faults
    )


def check_state(state: Mapping[str, Any], faults: list[str]) -> dict[str, Any]:
    """Return what ``trainer_state.json`` holds without what is damaged; as ``check_facts``."""
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
        return None if wrong is None else f"a list, each of it {wrong}"

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
    """Check the statistics of data; those of tokens are there together or not at all."""
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
