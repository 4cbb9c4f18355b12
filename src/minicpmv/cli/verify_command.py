"""Runs ``minicpmv verify``: compares a model's directory with what this package expects of its release."""

from __future__ import annotations

from collections.abc import Sequence

from minicpmv.cli.model_options import model_name
from minicpmv.cli.parser import CommandParser

__all__ = ["NAME", "SUMMARY", "run"]

NAME = "verify"
SUMMARY = "compare a model's files with its release"

_EXAMPLES = """examples:
  minicpmv verify openbmb/MiniCPM-o-4_5
  minicpmv verify models/MiniCPM-V-4_5 --template
"""


def run(arguments: Sequence[str]) -> int:
    """Compare, print what was found, and return 1 if something differs."""
    parser = CommandParser(
        prog=f"minicpmv {NAME}",
        description="Compare a model's directory with what this package expects of its release: the ids of special "
        "tokens, parameters, names and shapes of weights, and on request its chat template. A report of a bug needs "
        "this output. No code of the directory is run, and no weights are read.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("model", metavar="MODEL", type=model_name, help="directory of a model, or its name on the hub")
    parser.add_argument(
        "--template",
        action="store_true",
        help="render the directory's chat template, in a process with limits of time and memory, and compare it with "
        "the prompts written here",
    )
    options = parser.parse_args(arguments)
    from transformers.utils import logging

    from minicpmv.inference.verifying.release_check import check_release
    from minicpmv.releases.directories import find_directory

    logging.set_verbosity_error()
    folder = find_directory(options.model, asked_by="MODEL")
    num_faults = 0
    for finding in check_release(folder, with_template=options.template):
        print(f"{finding.subject}: {finding.said}")
        for fault in finding.faults:
            print(f"  differs: {fault}")
        num_faults += len(finding.faults)
    print(f"{num_faults} differences" if num_faults else "no differences")
    return 1 if num_faults else 0
