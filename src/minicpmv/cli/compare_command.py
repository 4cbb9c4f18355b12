"""Runs ``minicpmv compare``: compares two files of answers to the same records, record by record."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from minicpmv.cli.model_options import positive_int, seed_int
from minicpmv.cli.parser import CommandParser

if TYPE_CHECKING:  # for annotations only: numpy is imported in the command's body
    from minicpmv.evaluation.comparison import Comparison
    from minicpmv.evaluation.metrics.base import Metric

__all__ = ["NAME", "SUMMARY", "run"]

NAME = "compare"
SUMMARY = "compare two models' answers record by record"

_SCHEMA = 1

_EXAMPLES = """examples:
  minicpmv compare before.jsonl after.jsonl
  minicpmv compare before.jsonl after.jsonl --metrics anls,cer --json
"""


def _build_parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog=f"minicpmv {NAME}",
        description="Compare two files that `minicpmv predict` or `minicpmv eval --output` wrote for the same records: "
        "the difference of each metric with its 95 % interval and p-value, and the records whose score "
        "changed. Records are matched by id, or by position if they have none.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("first", metavar="A", help="file of answers")
    parser.add_argument("second", metavar="B", help="file of answers to the same records")
    parser.add_argument(
        "--metrics",
        metavar="NAME,...",
        help="metrics to compare (default: those with scores in both files, else exact_match)",
    )
    parser.add_argument(
        "--examples", type=positive_int, default=10, metavar="N", help="changed records to show (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=seed_int, default=0, metavar="S", help="seed of intervals and tests (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead (keys: docs/evaluation.md)")
    return parser


def run(arguments: Sequence[str]) -> int:
    """Compare and print."""
    options = _build_parser().parse_args(arguments)
    from minicpmv.evaluation.comparison import compare, shared_metrics
    from minicpmv.evaluation.metrics.registry import find_metrics, split_names

    names = shared_metrics(options.first, options.second) if options.metrics is None else split_names(options.metrics)
    metrics = find_metrics(names)
    found = compare(options.first, options.second, metrics, seed=options.seed, max_changes=options.examples)
    if options.json:
        print(json.dumps({"schema": _SCHEMA, "first": options.first, "second": options.second, **asdict(found)}))
    else:
        _print(found, metrics)
    return 0


def _print(found: Comparison, metrics: Sequence[Metric]) -> None:
    from minicpmv.evaluation.scores import shown

    print(f"{'metric':<20} {'A':>8} {'B':>8} {'B - A':>8}   {'95 % interval':<20} {'p':>6}  {'test':<12} better, worse")
    for metric in metrics:
        row = found.differences[metric.name]
        between = f"{shown(metric, row.low)} to {shown(metric, row.high)}"
        values = " ".join(f"{shown(metric, value):>8}" for value in (row.first, row.second, row.difference))
        counts = f"{row.num_better:,}, {row.num_worse:,} of {row.num_records:,}"
        print(f"{metric.name:<20} {values}   {between:<20} {row.p_value:>6.3f}  {row.test:<12} {counts}")
    if said := str(found.share):
        print(f"compared {said}")
    print(f"\n{found.num_changed:,} of {found.num_records:,} records have a different score")
    for change in found.changes:
        scores = ", ".join(f"{name} {before:.3g} -> {after:.3g}" for name, (before, after) in change.scores.items())
        print(f"\n{change.key!r}: {scores}")
        print(f"  question  {change.question!r}")
        print(f"  expected  {' | '.join(map(repr, change.references))}")
        print(f"  A         {change.answers[0]!r}\n  B         {change.answers[1]!r}")
    hidden = found.num_changed - len(found.changes)
    if hidden:
        print(f"\n... and {hidden:,} more (--examples N)")
