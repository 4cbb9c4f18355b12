"""Runs ``minicpmv eval``: measures a model's answers against the known ones."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from minicpmv.cli.data_options import add_image_root
from minicpmv.cli.model_options import add_model_options, generation_settings, open_many, positive_int, seed_int
from minicpmv.cli.output_file import check_output
from minicpmv.cli.parser import CommandParser
from minicpmv.errors import UsageError
from minicpmv.wording import counted, name_few

if TYPE_CHECKING:  # for annotations only: numpy is imported in the command's body
    from minicpmv.data.records.answers import Answers, Share
    from minicpmv.evaluation.metrics.base import Metric, Sample
    from minicpmv.evaluation.scores import Result

__all__ = ["NAME", "SUMMARY", "run"]

NAME = "eval"
SUMMARY = "measure a model on records with known answers"

_DEFAULT = "exact_match"
_BATCH_SIZE = 16

_EXAMPLES = """examples:
  minicpmv eval output/lora heldout.json --metrics anls,exact_match --output scores.jsonl
  minicpmv eval --predictions predictions.jsonl --metrics rouge_l,cider
  minicpmv eval output/lora pope.json --metrics yes_no
"""

_OF_THE_MODEL = (
    ("image_root", "--image-root"),
    ("batch_size", "--batch-size"),
    ("blank_images", "--blank-images"),
    ("shuffle_frames", "--shuffle-frames"),
    ("model_max_length", "--model-max-length"),
    ("device", "--device"),
    ("processes", "--processes"),
    ("dtype", "--dtype"),
    ("max_new_tokens", "--max-new-tokens"),
    ("thinking", "--thinking"),
    ("max_slice_nums", "--max-slice-nums"),
    ("turns", "--turns"),
)
"""Options that have no effect with a file of answers."""
_OF_WHAT_IS_SHOWN = (("blank_images", "--blank-images"), ("shuffle_frames", "--shuffle-frames"))


def _build_parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog=f"minicpmv {NAME}",
        usage=f"minicpmv {NAME} [-h] (MODEL DATA | --predictions FILE) [options]",
        description="Ask a model for the last answer of every record, or for all, or read answers from a file, and "
        "measure them. Thoughts before an answer do not count.",
        epilog=_EXAMPLES,
    )
    add_model_options(parser, max_new_tokens=64, with_thoughts=2048, is_optional=True, many=True)
    parser.add_argument("data", metavar="DATA", nargs="?", help="file of records, as for training")
    parser.add_argument(
        "--predictions", metavar="FILE", help="measure the answers in this file, which `minicpmv predict` wrote"
    )
    parser.add_argument(
        "--metrics",
        default=_DEFAULT,
        metavar="NAME,...",
        help="metrics to compute, with 95%% intervals (default: %(default)s); `--metrics list` lists all. yes_no and "
        "chair are several that are read together; chair:FILE takes a vocabulary of objects",
    )
    parser.add_argument(
        "--seed", type=seed_int, default=0, metavar="S", help="seed of the intervals (default: %(default)s)"
    )
    add_image_root(parser)
    parser.add_argument(
        "--batch-size", type=positive_int, metavar="N", help=f"records answered at once (default: {_BATCH_SIZE})"
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="write every answer with the known one and its scores, as JSON Lines; replaces a file that this command "
        "wrote, and no other",
    )
    parser.add_argument(
        "--blank-images",
        action="store_true",
        help="show grey pictures and frames instead, to find what the model answers without seeing",
    )
    parser.add_argument(
        "--shuffle-frames",
        action="store_true",
        help="show the frames of each film in another order, to find what the model answers without it",
    )
    parser.add_argument(
        "--model-max-length",
        type=positive_int,
        metavar="N",
        help="for loss and perplexity: as training's --model_max_length (default: 2048)",
    )
    parser.add_argument(
        "--turns",
        choices=("last", "all"),
        default="last",
        help="answers to ask for in each record: its last, or every one, each after the recorded ones before it; "
        "an answer of weight 0 is only context (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print the result as one line of JSON")
    return parser


def run(arguments: Sequence[str]) -> int:
    """Ask for or read the answers, measure record by record, and print the values."""
    parser = _build_parser()
    options = parser.parse_intermixed_args(arguments)
    from minicpmv.evaluation.metrics.registry import find_metrics, split_names
    from minicpmv.evaluation.score_files import SCORED_ANSWERS, ShareOfFile, open_replacing, write_line

    if options.metrics == "list":
        _print_metrics()
        return 0
    _check_usage(parser, options)
    metrics = find_metrics(split_names(options.metrics))
    if options.output:
        check_output(options.output, options.data, options.predictions, replaces=SCORED_ANSWERS)
    other_base = None if options.predictions else _compare_base(options)
    asked = None if options.predictions else _find_answers(options, metrics)
    lines = _read(options, metrics) if asked is None else _ask(options, metrics, asked)

    from minicpmv.evaluation.scores import Scorer

    scorer, of_file = Scorer(metrics, seed=options.seed), ShareOfFile()
    named: dict[str, list[Any]] = {metric.name: [] for metric in metrics if metric.names_records}
    with open_replacing(options.output) if options.output else nullcontext() as file:
        for line, sample in lines:
            scores = scorer.add(sample)
            of_file.add(line)
            for name, ids in named.items():
                ids += [line.get("id") or line.get("index", scorer.num_records - 1)] if scores[name] else []
            if file is not None:
                write_line(file, {**line, "scores": scores})
        results = scorer.results()
    share = of_file.share() if asked is None else asked.share
    _print(options, metrics, results, scorer.num_records, share, other_base)
    for metric in metrics:
        _name_records(metric, named.get(metric.name), as_json=options.json)
    return 0


def _name_records(metric: Metric, ids: Sequence[Any] | None, *, as_json: bool) -> None:
    if ids:
        few = name_few(map(repr, ids))
        print(f"{metric.names_records} in {counted(len(ids), 'answer')}: {few}", file=sys.stderr if as_json else None)


def _check_usage(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if options.predictions:
        given = [flag for name, flag in _OF_THE_MODEL if getattr(options, name) != parser.get_default(name)]
        given += [name for name, value in (("MODEL", options.model), ("DATA", options.data)) if value]
        if given:
            parser.error(
                f"--predictions: found {', '.join(given)} as well, expected neither a model nor its options: the "
                "answers are there already\n  fix: remove --predictions, or the others"
            )
    elif not options.data:
        found = "no DATA" if options.model else "nothing to measure"
        parser.error(f"found {found}, expected MODEL and DATA, or --predictions FILE\n  fix: add what is missing")


def _compare_base(options: argparse.Namespace) -> str | None:
    """Compare an adapter's base before anything is read; return a base that was allowed nevertheless."""
    from minicpmv.inference.loading import compare_own_base

    return compare_own_base(options.model, allow_other=options.allow_other_base)


def _print_metrics() -> None:
    from minicpmv.evaluation.metrics.registry import describe_metrics

    for name, description in describe_metrics():
        print(f"{name:<20} {description}")


def _read(options: argparse.Namespace, metrics: Sequence[Metric]) -> Iterator[tuple[Mapping[str, Any], Sample]]:
    from minicpmv.evaluation.score_files import read_answers

    first = [metric for metric in metrics if metric.sees_all_first]
    for answered in read_answers(options.predictions) if first else ():
        for metric in first:
            metric.prepare(answered.sample)
    for answered in read_answers(options.predictions):
        yield answered.fields, answered.sample


def _find_answers(options: argparse.Namespace, metrics: Sequence[Metric]) -> Answers:
    """Check options against metrics, then read the data."""
    from minicpmv.data.records.answers import Answers
    from minicpmv.data.sources.loading import load_records

    changed = [flag for name, flag in _OF_WHAT_IS_SHOWN if getattr(options, name)]
    if len(changed) > 1:
        raise UsageError(f"{' '.join(changed)}: found both, expected one of them\n  fix: remove one of the two")
    if changed and not all(metric.needs_answers for metric in metrics):
        raise UsageError(
            f"{changed[0]}: found with loss or perplexity, which are measured on the pictures themselves, expected "
            "metrics of answers only\n  fix: remove one of the two"
        )
    if options.model_max_length and all(metric.needs_answers for metric in metrics):
        raise UsageError(
            "--model-max-length: found without loss or perplexity, expected one of them\n  fix: remove it, or add one"
        )
    if options.turns == "all" and not all(metric.needs_answers for metric in metrics):
        raise UsageError(
            "--turns all: found with loss or perplexity, which count every answer of a record as it is, expected "
            "metrics of answers only\n  fix: measure loss and perplexity in a command of their own"
        )
    records = load_records(options.data, image_root=options.image_root)
    if not records:
        raise UsageError(f"{options.data}: found no record, expected at least one\n  fix: name a file with records")
    return Answers(records, every=options.turns == "all", as_references=True)


def _ask(
    options: argparse.Namespace, metrics: Sequence[Metric], asked: Answers
) -> Iterator[tuple[Mapping[str, Any], Sample]]:
    from minicpmv.evaluation.measuring.asking import ask, prepare

    prepare(metrics, asked)

    def report(done: int) -> None:
        if sys.stderr.isatty():
            print(f"\r{done:,} of {len(asked):,} answers", end="", file=sys.stderr, flush=True)

    settings, batch_size = generation_settings(options), options.batch_size or _BATCH_SIZE
    with open_many(options, num_batches=-(-len(asked) // batch_size)) as models:
        yield from ask(
            models,
            asked,
            metrics,
            settings=settings,
            batch_size=batch_size,
            max_length=options.model_max_length or 2048,
            shown_as="blank" if options.blank_images else "shuffled" if options.shuffle_frames else "they are",
            on_progress=report,
        )
    if sys.stderr.isatty():
        print(file=sys.stderr)


def _print(
    options: argparse.Namespace,
    metrics: Sequence[Metric],
    results: Mapping[str, Result],
    num_records: int,
    share: Share,
    other_base: str | None,
) -> None:
    from minicpmv.evaluation.scores import shown

    if options.json:
        report: dict[str, Any] = {
            "records": num_records,
            "answers": {"asked": share.asked, "of": share.of, "of_weight_0": share.of_weight_0},
            "metrics": {
                name: {"value": found.value, "low": found.low, "high": found.high, "records": found.num_records}
                for name, found in results.items()
            },
        }
        if other_base is not None:
            report["other_base"] = other_base
        print(json.dumps(report))
        return
    print(f"{'metric':<20} {'value':>8}   {'95 % interval':<20} answers")
    for metric in metrics:
        found = results[metric.name]
        between = f"{shown(metric, found.low)} to {shown(metric, found.high)}"
        print(f"{metric.name:<20} {shown(metric, found.value):>8}   {between:<20} {found.num_records:,}")
    said = str(share) if any(metric.needs_answers for metric in metrics) else ""
    if said:
        more = "; --turns all asks for every one" if options.turns == "last" and not options.predictions else ""
        print(f"measured {said}{more}")
