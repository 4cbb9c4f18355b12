"""Runs ``minicpmv estimate``: predicts whether a run fits, how long it takes, and which flags make it fit."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout

from minicpmv.cli.model_options import model_name, positive_int
from minicpmv.cli.parser import CommandParser
from minicpmv.errors import UsageError

__all__ = ["NAME", "SUMMARY", "run"]

NAME = "estimate"
SUMMARY = "predict memory and time of a training run, and which flags make it fit a GPU"

_NO_DATA = "none"
"""Stands for data that nobody named: a run asks for some."""
_EXAMPLES = """exit code: 0 if it fits all named GPUs, or none is named; 1 if not; 2 if training would refuse it as
well.

examples:
  minicpmv estimate /models/MiniCPM-V-2_6 --gpu 24GB --use_lora true
  minicpmv estimate /models/MiniCPM-V-2_6 train.json --gpu 4090,a100-80g --devices 2 --deepspeed zero2
  minicpmv estimate run.yaml --gpu 24GB --lora_preset adapters_only
"""


def _build_parser(*, has_file: bool = False) -> argparse.ArgumentParser:
    """Build the parser; a file of settings, which comes first, is taken from the command line before it reads."""
    parser = CommandParser(
        prog=f"minicpmv {NAME}",
        usage=f"minicpmv {NAME} MODEL [DATA ...] [--gpu GPU] [--devices N] [--mfu SHARE] [--json] [flags of training]\n"
        f"       minicpmv {NAME} RUN.yaml [the same]",
        description="Predict peak memory by component, and the time of an epoch, without a GPU. All "
        "flags of `minicpmv train` are accepted and checked alike (`minicpmv train --help`). With DATA, its rows are "
        "planned as in a run; without it, the worst rows that the flags allow. RUN.yaml is a file of settings, as "
        "`minicpmv train` reads it, with model and data; flags behind it win. Needs no weights and no GPU.",
        epilog=_EXAMPLES,
    )
    if not has_file:
        help_text = "directory of the model, or its config.json; or a hub name"
        parser.add_argument("model", type=model_name, metavar="MODEL", help=help_text)
        data_help = "files of records, as for training; before any flag"
        parser.add_argument("data", metavar="DATA", nargs="*", help=data_help)
    parser.add_argument(
        "--gpu",
        metavar="GPU",
        action="append",
        default=[],
        help="memory of the GPU (24GB), or its name (4090, a100-80g, h100, ...); separate several with commas",
    )
    parser.add_argument(
        "--devices", type=positive_int, metavar="N", help="GPUs (default: --num_processes of the run, else 1)"
    )
    parser.add_argument(
        "--mfu",
        type=_share,
        metavar="SHARE",
        help="share of the GPU's peak that training reaches, 0 to 1 (default: 0.35; affects only the time)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead (keys: docs/estimate.md)")
    return parser


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a number above 0, up to 1")
    return value


def run(arguments: Sequence[str]) -> int:
    """Estimate, print, and tell by the exit code whether it fits.

    Raises:
        UsageError: A flag says again what MODEL and DATA say, or cannot work.
        ConfigError: The file of settings cannot be read, or holds what is no setting.
    """
    words, options = _read_words(arguments)
    os.environ.setdefault(
        "OMP_WAIT_POLICY", "PASSIVE"
    )  # before torch is loaded: otherwise threads spin where cores are shared
    from transformers.utils import logging

    from minicpmv.estimation.answer import Question, answer, as_json, as_text
    from minicpmv.estimation.devices import find_device
    from minicpmv.estimation.duration import DEFAULT_SHARE
    from minicpmv.training.distributed.engine import quieten
    from minicpmv.training.flags.arguments import parse_arguments

    run = parse_arguments(words).run
    quieten()
    logging.set_verbosity_error()
    names = [name for given in options.gpu for name in given.split(",")]
    question = Question(
        arguments=tuple(words),
        has_data=run.data_path != [_NO_DATA],
        devices=tuple(find_device(name) for name in names),
        num_devices=options.devices or run.num_processes or 1,
        share=options.mfu or DEFAULT_SHARE,
    )
    with redirect_stdout(sys.stderr) if options.json else nullcontext():  # what is said of the data is no JSON
        found = answer(question)
    print(json.dumps(as_json(found)) if options.json else as_text(found))
    sys.stdout.flush()
    return int(not found.fits_everywhere)


def _read_words(arguments: Sequence[str]) -> tuple[list[str], argparse.Namespace]:
    """Return the flags of the run to estimate, and the options of the estimate."""
    from minicpmv.training.flags.words.settings_file import is_settings_file, with_settings_file

    open_to_choice = ["--data_path", _NO_DATA, "--output_dir", "output/estimate"]
    if arguments and is_settings_file(arguments[0]):
        options, flags = _build_parser(has_file=True).parse_known_args(arguments[1:])
        return [*open_to_choice, *with_settings_file([arguments[0], *flags])], options
    options, flags = _build_parser().parse_known_args(arguments)
    for name in ("model_name_or_path", "data_path"):
        if any(flag.partition("=")[0] == f"--{name}" for flag in flags):
            raise UsageError(
                f"--{name}: found in addition to MODEL and DATA, expected these alone\n  fix: remove the flag"
            )
    named = ["--model_name_or_path", options.model, *(["--data_path", *options.data] if options.data else [])]
    return [*open_to_choice, *named, *flags], options
