"""Writes the recorded runs as Markdown: medians over the rounds, ratios of processor time within each, first losses."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.peers.ways import LEFT_OUT, METHODS, WAYS

__all__ = ["write_table"]

Record = Mapping[str, Any]
"""``round``, ``kind``, ``method`` and ``way``, with ``figures`` or with ``failed``."""

_METHOD_NAMES = {"lora": "LoRA", "full": "full"}
_COLUMNS = (
    "",
    "samples/s",
    "trained tokens/s",
    "processor-s a sample",
    "times ours as it comes",
    "times ours, nothing recomputed",
    "peak memory, GiB",
    "to the end of step 1, s: clock, processor",
    "loss of each step",
    "trained tokens and positions of a step",
)


def write_table(records: Sequence[Record]) -> str:
    """Return a table for each kind and method that was run, with what failed or was left out below it."""
    parts = []
    for kind in sorted({each["kind"] for each in records}):
        for method in METHODS:
            found = [each for each in records if (each["kind"], each["method"]) == (kind, method)]
            if found:
                parts.append(f"**{kind}, {_METHOD_NAMES[method]}**\n\n{_table(found)}")
                parts += _unequal(found)
                profiled = [each for each in found if each.get("figures", {}).get("profile")]
                if profiled:
                    parts.append(_profiles(profiled))
                parts += [
                    f"{WAYS[way].label} is left out: {why}."
                    for (of_kind, of_method, way), why in LEFT_OUT.items()
                    if (of_kind, of_method) == (kind, method)
                ]
    return "\n\n".join(parts) + "\n"


def _table(records: Sequence[Record]) -> str:
    lines = [_row(_COLUMNS), _row(["---"] * len(_COLUMNS))]
    ways = dict.fromkeys(each["way"] for each in records)
    compared = [_of_way(records, way) for way in ("ours_recomputed", "ours")]
    for way in ways:
        figures = _of_way(records, way)
        failed = next((each["failed"] for each in records if each["way"] == way and "failed" in each), None)
        if figures:
            lines.append(_row([WAYS[way].label, *_cells(figures, compared)]))
        elif failed is not None:
            lines.append(_row([WAYS[way].label, f"failed: {failed.splitlines()[-1]}", *[""] * (len(_COLUMNS) - 2)]))
    return "\n".join(lines)


def _unequal(records: Sequence[Record]) -> list[str]:
    """Name the ways whose comparison is not fair, as another number of weights learns than in ours."""
    learning = {each["way"]: each["figures"]["learning"] for each in records if "figures" in each}
    expected = learning.get("ours", learning.get("ours_recomputed"))
    return [
        f"**Not comparable**: {WAYS[way].label} trains {number:,} weights, this package {expected:,}."
        for way, number in learning.items()
        if expected is not None and number != expected
    ]


def _profiles(records: Sequence[Record]) -> str:
    """Return a table of seconds by kind of operation, of the first run of each way."""
    first = {each["way"]: each["figures"]["profile"] for each in reversed(records)}
    ways = [name for name in WAYS if name in first]
    kinds = sorted({kind for each in first.values() for kind in each}, key=lambda kind: -first[ways[0]].get(kind, 0.0))
    lines = [_row(["seconds of the first step", *(WAYS[way].label for way in ways)]), _row(["---"] * (len(ways) + 1))]
    lines += [_row([kind, *(f"{first[way].get(kind, 0.0):.1f}" for way in ways)]) for kind in kinds]
    return "\n".join([*lines, _row(["together", *(f"{sum(first[way].values()):.1f}" for way in ways)])])


def _of_way(records: Sequence[Record], way: str) -> dict[int, Any]:
    """Return the figures of a way by round."""
    return {each["round"]: each["figures"] for each in records if each["way"] == way and "figures" in each}


def _cells(figures: Mapping[int, Any], ours: Sequence[Mapping[int, Any]]) -> list[str]:
    def median(name: str, form: str) -> str:
        known = [each[name] for each in figures.values() if each[name] is not None]
        return format(statistics.median(known), form) if known else "-"

    def ratio(compared: Mapping[int, Any]) -> str:
        seconds = "processor_seconds"
        return _ratio([each[seconds] / compared[at][seconds] for at, each in figures.items() if at in compared])

    first = next(iter(figures.values()))
    return [
        median("samples_per_second", ".3f"),
        median("trained_tokens_per_second", ".1f"),
        median("processor_seconds", ".2f"),
        *(ratio(each) for each in ours),
        median("memory_gib", ".2f"),
        median("first_step_seconds", ".0f") + ", " + median("first_step_processor_seconds", ".0f"),
        ", ".join(f"{loss:.3f}" for loss in first["losses"]),
        f"{_mean(first['trained_tokens'])}, {_mean(first['positions'])}",
    ]


def _ratio(ratios: Sequence[float]) -> str:
    if not ratios:
        return ""
    middle = f"{statistics.median(ratios):.2f}"
    return middle if len(ratios) == 1 else f"{middle} ({', '.join(f'{each:.2f}' for each in ratios)})"


def _mean(counts: Sequence[int]) -> str:
    return f"{statistics.fmean(counts):,.0f}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
