"""Writes the tables and the chart of the guides from what was measured.

    python -m benchmarks.guides.tables                             # the tables of the pages
    python -m benchmarks.guides.tables output/guides/runs.jsonl    # the same of other runs
    python -m benchmarks.guides.tables output/guides/runs.jsonl --to-pages

The last puts them into the pages, in place of those that are there; the sentences around them are yours to read again.
Where several seeds were run, a cell holds the lowest and the highest value. A test compares the pages with the tables.
"""

from __future__ import annotations

import argparse
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.guides.cases import AMOUNTS, CARD_EPOCHS, CARDS, SHARES, all_cases
from benchmarks.guides.chart import draw_curves
from benchmarks.guides.measuring import SEEDS, read_results

__all__ = ["CHART", "MEASURED", "PAGES", "chart", "tables", "to_pages", "with_tables"]

MEASURED = Path(__file__).with_name("measured.jsonl")
"""What the pages show."""
_DOCS = Path(__file__).parents[2] / "docs"
PAGES = (_DOCS / "how_much_data.md", _DOCS / "fields.md")
_MARKED = re.compile(r"(<!-- table: (\w+) -->\n\n)(?:\|.*\n)*")
CHART = _DOCS / "images" / "how_many_records.svg"

_WAYS = ("LoRA, official", "LoRA alone", "full")
_RATES = ("1e-06", "1e-05", "0.0001", "0.001", "0.003", "0.01")

Rows = Mapping[tuple[str, str], Sequence[Mapping[str, Any]]]
"""By table and row the results of all seeds that were run."""


def _percent(low: float, high: float) -> str:
    ends = [f"{100 * value:.1f}" for value in (low, high)]
    return f"{ends[0]} %" if ends[0] == ends[1] else f"{ends[0]} to {ends[1]} %"


def _share_of_weights(low: float, high: float) -> str:
    return f"{(low + high) / 2:.2g}"


def _whole(low: float, high: float) -> str:
    return f"{round((low + high) / 2)}"


def _cell(rows: Rows, table: str, row: str, name: str, write: Callable[[float, float], str] = _percent) -> str:
    values = [found[name] for found in rows.get((table, row), ()) if name in found]
    return write(min(values), max(values)) if values else ""


def _join(*lines: Sequence[str]) -> str:
    head, *rest = lines
    return "\n".join(f"| {' | '.join(cells)} |".replace("  |", " |") for cells in (head, ["---"] * len(head), *rest))


def _records(rows: Rows) -> str:
    lines: list[list[str]] = []
    for number in AMOUNTS:
        epochs = f"{number}, equal epochs"
        steps = f"{number}, equal steps" if number != AMOUNTS[-1] else epochs
        lines.append(
            [
                f"{number:,}",
                _cell(rows, "records", epochs, "exact_match"),
                _cell(rows, "records", epochs, "steps", _whole),
                _cell(rows, "records", steps, "exact_match"),
                _cell(rows, "records", steps, "epochs", _whole),
            ]
        )
    return _join(["records", "4 epochs", "steps", "300 steps", "epochs"], *lines)


def _rates(rows: Rows) -> str:
    made = {row for table, row in rows if table == "rates"}
    ways = [way for way in _WAYS if any(row.startswith(f"{way}, ") for row in made)]
    lines: list[list[str]] = []
    for rate in _RATES:
        found = [f"{way}, {rate}" for way in ways]
        if made.intersection(found):
            cells = [
                cell
                for row in found
                for cell in (
                    _cell(rows, "rates", row, "exact_match"),
                    _cell(rows, "rates", row, "moved", _share_of_weights),
                )
            ]
            lines.append([f"{float(rate):.0e}".replace("e-0", "e-"), *cells])
    return _join(["learning rate", *(f"{way}: {what}" for way in ways for what in ("right", "moved"))], *lines)


def _others(rows: Rows) -> str:
    base = ("rates", "LoRA, official, 0.001")
    named = [
        ("the recipe: 4 epochs, learning rate 1e-3, tower and resampler trained beside LoRA", base),
        ("1 epoch", ("epochs", "1")),
        ("2 epochs", ("epochs", "2")),
        ("8 epochs", ("epochs", "8")),
        ("`--tune_vision false`", ("parts", "tower frozen")),
        ("`--tune_vision false --tune_resampler false`", ("parts", "tower and resampler frozen")),
    ]
    lines = [[name, _cell(rows, table, row, "exact_match")] for name, (table, row) in named if (table, row) in rows]
    return _join(["", "right"], *lines)


def _rank(rows: Rows) -> str:
    lines = [
        [rank, *(_cell(rows, "rank", f"{rank}{targets}", "exact_match") for targets in ("", ", all-linear"))]
        for rank in ("8", "64")
    ]
    return _join(["rank", "attention", "attention and MLP"], *lines)


def _negatives(rows: Rows) -> str:
    names = ("json_invented", "json_field_accuracy", "exact_match")
    lines: list[list[str]] = []
    for share in SHARES:
        found = [f"{share:.0%} negatives, {epochs} epochs" for epochs in CARD_EPOCHS]
        if any(("negatives", row) in rows for row in found):
            cells = [_cell(rows, "negatives", row, name) for row in found for name in names]
            lines.append([f"{share:.0%} ({round(share * CARDS)})", *cells])
    steps = [f"{epochs * CARDS // 16} steps: " for epochs in CARD_EPOCHS]
    head = [f"{prefix}{name}" for prefix in steps for name in ("invented", "fields right", "cards right")]
    return _join([f"negatives of {CARDS} records", *head], *lines)


def _rows(results: Mapping[str, Mapping[str, Any]]) -> Rows:
    rows: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for case in all_cases():
        found = [results[key] for key in (replace(case, seed=seed).key for seed in SEEDS) if key in results]
        if found:
            rows[case.table, case.row] = found
    return rows


_TABLES = {"records": _records, "rates": _rates, "others": _others, "rank": _rank, "negatives": _negatives}


def tables(results: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return each table in Markdown, by the name that the pages mark its place with.

    Args:
        results: What runs gave, by the keys of their cases, as ``read_results`` returns them.
    """
    rows = _rows(results)
    return {name: write(rows) for name, write in _TABLES.items()}


def chart(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the learning curves as SVG."""
    rows = _rows(results)
    curves: dict[str, dict[int, tuple[float, float]]] = {"300 steps": {}, "4 epochs": {}}
    for number in AMOUNTS:
        for name, row in (("4 epochs", "equal epochs"), ("300 steps", "equal steps")):
            found = rows.get(("records", f"{number}, {row}")) or ()
            if number == AMOUNTS[-1]:
                found = rows.get(("records", f"{number}, equal epochs")) or ()
            values = [each["exact_match"] for each in found]
            if values:
                curves[name][number] = (min(values), max(values))
    curves = {name: curve for name, curve in curves.items() if len(curve) > 1}
    return draw_curves(curves, amounts=AMOUNTS, chance=0.1)


def with_tables(page: str, written: Mapping[str, str]) -> str:
    """Return the text of a page with these tables, each behind its mark (``<!-- table: rates -->``)."""
    return _MARKED.sub(lambda match: f"{match[1]}{written[match[2]]}\n", page)


def to_pages(runs: Path) -> None:
    """Let the pages show these runs."""
    now = read_results(runs)
    for page in PAGES:
        page.write_text(with_tables(page.read_text(encoding="utf-8"), tables(now)), encoding="utf-8")
    CHART.write_text(chart(now), encoding="utf-8")
    if runs.resolve() != MEASURED:
        shutil.copyfile(runs, MEASURED)


def main() -> None:
    """Print the tables, or put them into the pages."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.guides.tables", description=(__doc__ or "").partition("\n\n")[0]
    )
    parser.add_argument("runs", type=Path, nargs="?", default=MEASURED, help="default: what the pages show")
    parser.add_argument("--to-pages", action="store_true", help="write the tables into docs/")
    asked = parser.parse_args()
    if asked.to_pages:
        to_pages(asked.runs)
    else:
        print("\n\n".join(tables(read_results(asked.runs)).values()))


if __name__ == "__main__":
    main()
