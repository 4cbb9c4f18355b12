"""Runs ``minicpmv init``: writes a commented file of settings for a task, a model and a card."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from minicpmv.cli.model_options import model_name
from minicpmv.cli.parser import CommandParser
from minicpmv.files.places import check_file
from minicpmv.recipes.tasks import TASKS

__all__ = ["NAME", "SUMMARY", "run"]

NAME = "init"
SUMMARY = "write a commented file of settings for a task and a card, to train by"

_EXAMPLES = """examples:
  minicpmv init fields openbmb/MiniCPM-V-2_6 train.json --card 24
  minicpmv init preference output/demo/model pairs.json --card cpu --output pairs.yaml
"""


def _build_parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog=f"minicpmv {NAME}",
        description="Write the settings of a training run, one on a line and explained, for `minicpmv train FILE`: the "
        "recipe of the official script, with what the task needs and the metric that fits it, and with what "
        "`minicpmv estimate` finds to fit the card. Needs neither weights nor a GPU, and replaces no file.",
        epilog=_EXAMPLES,
    )
    parser.add_argument(
        "task", metavar="TASK", choices=[*TASKS], help="; ".join(f"{name}: {text}" for name, text in TASKS.items())
    )
    parser.add_argument("model", metavar="MODEL", type=model_name, help="directory of the model, or a hub name")
    parser.add_argument("data", metavar="DATA", nargs="*", default=["train.json"], help="files (default: train.json)")
    parser.add_argument(
        "--card",
        default="24",
        metavar="CARD",
        help="memory of the card in GB (16, 24, 80), several (8x80), a name (4090, a100-80g), or cpu (default: 24)",
    )
    parser.add_argument("--output", default="run.yaml", metavar="FILE", help="file to write (default: %(default)s)")
    return parser


def run(arguments: Sequence[str]) -> int:
    """Compose the settings and write them.

    Raises:
        UsageError: The file exists, or cannot be written.
        MiniCPMVError: Training would refuse the settings, the model or the data, or nothing fits the card.
    """
    options = _build_parser().parse_intermixed_args(arguments)
    file = Path(options.output)
    check_file(file, asked_by="--output", replaces="none")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is loaded, as in `estimate`
    from transformers.utils import logging

    from minicpmv.recipes.needed_data import describe_lack
    from minicpmv.recipes.recipe import compose_recipe, parse_cards
    from minicpmv.training.distributed.console import notice
    from minicpmv.training.distributed.engine import quieten

    quieten()
    logging.set_verbosity_error()
    cards = parse_cards(options.card)
    _say_what_is_missing(options.data)
    print(f"estimating what fits {cards.in_words} ...", file=sys.stderr, flush=True)
    text = compose_recipe(options.task, model=options.model, data=options.data, cards=cards, file=options.output)
    if lack := describe_lack(options.task, options.data):
        notice(lack)
    with file.open("x", encoding="utf-8") as new:
        new.write(text)
    print(f"Wrote {options.output}. Next: {shlex.join(['minicpmv', 'train', options.output, '--dry_run', 'true'])}")
    return 0


def _say_what_is_missing(data: Sequence[str]) -> None:
    """Say which data files do not exist: a recipe may come before its data, and a name may be mistyped."""
    from minicpmv.data.records.path_faults import describe_missing_data
    from minicpmv.training.distributed.console import notice

    for each in data:
        path = each.partition(":")[0]
        problem = None if os.path.exists(path) else describe_missing_data(path)
        if problem is not None:
            notice(
                f"{each}: found {problem.found}. The recipe names it all the same, and the estimate is for the longest "
                f"rows that the settings allow. If it should be there: {problem.fix}"
            )
