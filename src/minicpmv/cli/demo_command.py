"""Runs ``minicpmv demo``: unpacks the embedded model and data."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from minicpmv.cli.parser import CommandParser

__all__ = ["NAME", "SUMMARY", "run"]

NAME = "demo"
SUMMARY = "unpack the embedded small model and its images, to try everything without a download"

_EXAMPLES = """examples:
  minicpmv demo --output output/demo
  minicpmv eval output/demo/model output/demo/heldout.json
  minicpmv demo --films --output output/demo-films
"""


def _build_parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog=f"minicpmv {NAME}",
        description="Write a small MiniCPM-V of the 2.6 kind and handwritten digits to train it on: model/, "
        "train.json, validation.json, heldout.json and images/, or films/. It is for trying the tool, not a useful "
        "assistant.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("--output", default="output/demo", help="directory to write (default: %(default)s)")
    parser.add_argument(
        "--films",
        action="store_true",
        help="write short drawn films in place of the digits (half a minute; needs PyAV)",
    )
    return parser


def run(arguments: Sequence[str]) -> int:
    """Unpack, and print where everything is."""
    options = _build_parser().parse_intermixed_args(arguments)
    from minicpmv.demo.build import build_demo

    paths = build_demo(options.output, films=options.films)
    print(f"demo model   {paths.model}")
    print(f"train        {paths.train}")
    print(f"validation   {paths.validation}")
    print(f"held-out     {paths.heldout}")
    return 0
