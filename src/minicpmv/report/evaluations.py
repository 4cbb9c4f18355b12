"""Names a log's evaluation values: ``eval_loss`` for a single set, ``eval_charts_loss`` for one of several."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

__all__ = ["OF_EVALUATION", "Measured", "key_of", "measured_keys", "set_names"]

OF_EVALUATION = ("loss", "runtime", "samples_per_second", "steps_per_second", "model_preparation_time")
"""Values that transformers logs for every evaluation."""

_PREFIX = "eval_"


class Measured(NamedTuple):
    """Names a logged number that measures the model on a set."""

    key: str
    set_name: str
    """Name of the set; empty if there is only one."""
    metric: str
    """Metric: ``loss``, or one of ``--eval_metrics``."""


def key_of(set_name: str, metric: str) -> str:
    """Return the key in the log.

    >>> key_of("", "loss"), key_of("charts", "anls")
    ('eval_loss', 'eval_charts_anls')
    """
    return f"{_PREFIX}{set_name}_{metric}" if set_name else f"{_PREFIX}{metric}"


def set_names(log: Iterable[Mapping[str, Any]]) -> list[str]:
    """Name the sets that a log has evaluations of, in order; a single set has an empty name."""
    names: dict[str, None] = {}
    for entry in log:
        for key in entry:
            if key.startswith(_PREFIX) and key.endswith("_runtime"):
                names[key.removeprefix(_PREFIX).removesuffix("runtime").removesuffix("_")] = None
    return list(names)


def measured_keys(log: Iterable[Mapping[str, Any]]) -> list[Measured]:
    """Find all numbers of a log that measure the model, losses first.

    >>> log = [{"eval_a_runtime": 1.0, "eval_a_loss": 2.0, "eval_a_anls": 0.5, "epoch": 1.0}]
    >>> measured_keys(log)
    [Measured(key='eval_a_loss', set_name='a', metric='loss'), Measured(key='eval_a_anls', set_name='a', metric='anls')]
    """
    entries = list(log)
    names = sorted({"", *set_names(entries)}, key=len, reverse=True)  # a_b before a, and both before the empty name
    found: list[Measured] = []
    for key in dict.fromkeys(key for entry in entries for key in entry if key.startswith(_PREFIX)):
        name = next(name for name in names if key.startswith(key_of(name, "")))
        metric = key.removeprefix(key_of(name, ""))
        if metric == "loss" or metric not in OF_EVALUATION:
            found.append(Measured(key, name, metric))
    return sorted(found, key=lambda each: each.metric != "loss")
