"""``minicpmv eval``: how many of a data file's answers a model gives word for word."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from minicpmv.cli.model_options import add_model_options, answer_length, open_model, positive_int
from minicpmv.errors import UsageError

__all__ = ["NAME", "SUMMARY", "run"]

NAME = "eval"
SUMMARY = "measure a model on records with known answers"

_EXAMPLES = """examples:
  minicpmv eval output/lora heldout.json --output predictions.jsonl
  minicpmv eval output/lora heldout.json --blank-images
"""


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"minicpmv {NAME}",
        description="Ask a model for the last answer of every record and count those that it gives word for word. "
        "Thoughts before an answer do not count.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model_options(parser, max_new_tokens=64, with_thoughts=2048)
    parser.add_argument("data", metavar="DATA", help="file of records, as for training")
    parser.add_argument("--image-root", metavar="DIR", help="folder of relative image paths (default: DATA's own)")
    parser.add_argument("--batch-size", type=positive_int, default=16, metavar="N", help="default: %(default)s")
    parser.add_argument("--output", metavar="FILE", help="write every answer beside the known one, as JSON Lines")
    parser.add_argument(
        "--blank-images",
        action="store_true",
        help="show grey pictures instead: what the model answers without seeing",
    )
    parser.add_argument("--json", action="store_true", help="print the result as one line of JSON")
    return parser


def run(arguments: Sequence[str]) -> int:
    """Read the data, answer it, print the share of exact answers."""
    options = _build_parser().parse_intermixed_args(arguments)
    from minicpmv.data.loading import load_records

    records = load_records(options.data, image_root=options.image_root)
    if not records:
        raise UsageError(f"{options.data}: found no record, expected at least one\n  fix: name a file with records")
    loaded = open_model(options)

    from minicpmv.evaluation.answers import exact_match, predict
    from minicpmv.inference.generation import GenerationSettings

    def report(done: int) -> None:
        if sys.stderr.isatty():
            print(f"\r{done} of {len(records)} records", end="", file=sys.stderr, flush=True)

    settings = GenerationSettings(
        max_new_tokens=answer_length(options),
        max_slice_nums=options.max_slice_nums,
        enable_thinking=options.thinking,
    )
    predictions = list(
        predict(
            loaded,
            records,
            batch_size=options.batch_size,
            settings=settings,
            blank_images=options.blank_images,
            on_progress=report,
        )
    )
    if sys.stderr.isatty():
        print(file=sys.stderr)
    if options.output:
        with open(options.output, "w", encoding="utf-8") as file:
            for prediction in predictions:
                line = asdict(prediction) | {"exact": prediction.is_exact}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
    score, exact = exact_match(predictions), sum(prediction.is_exact for prediction in predictions)
    if options.json:
        print(json.dumps({"exact_match": score, "exact": exact, "records": len(predictions)}))
    else:
        print(f"exact match {score:.1%} ({exact} of {len(predictions)} records)")
    return 0
