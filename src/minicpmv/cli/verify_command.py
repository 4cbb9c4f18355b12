"""Runs ``minicpmv verify``: compares a model's directory with what this package expects of its release."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from minicpmv.cli.model_options import model_name
from minicpmv.cli.parser import CommandParser

__all__ = ["NAME", "SUMMARY", "run"]

NAME = "verify"
SUMMARY = "compare a model's files with its release"

_EXAMPLES = """examples:
  minicpmv verify openbmb/MiniCPM-o-4_5
  minicpmv verify models/MiniCPM-V-4_5 --template
  minicpmv verify models/MiniCPM-V-4.6 --logits
"""


def run(arguments: Sequence[str]) -> int:
    """Compare, print what was found, and return 1 if something differs."""
    parser = CommandParser(
        prog=f"minicpmv {NAME}",
        description="Compare a model's directory with what this package expects of its release: the ids of special "
        "tokens, parameters, names and shapes of weights, and on request its chat template, logits and answers. A "
        "report of a bug needs this output. No code of the directory is run, and without --logits no weights are read.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("model", metavar="MODEL", type=model_name, help="directory of a model, or its name on the hub")
    parser.add_argument(
        "--template",
        action="store_true",
        help="render the directory's chat template, in a process with limits of time and memory, and compare it with "
        "the prompts written here",
    )
    parser.add_argument(
        "--logits",
        action="store_true",
        help="compute logits and short answers here and by transformers' own class, in a process with limits, on the "
        "CPU, and compare them (4.6 and later; of older releases transformers has no class)",
    )
    parser.add_argument(
        "--dtype",
        choices=["float32", "bfloat16"],
        default="float32",
        help="with --logits: number format of the weights (default: float32; the model must fit in memory)",
    )
    options = parser.parse_args(arguments)
    from transformers.utils import logging

    from minicpmv.inference.loading import find_version
    from minicpmv.inference.verifying.release_check import check_release
    from minicpmv.releases.directories import find_directory

    logging.set_verbosity_error()
    folder = find_directory(options.model, asked_by="MODEL")
    num_faults = 0
    findings = check_release(folder, with_template=options.template)
    if options.logits:
        from minicpmv.inference.verifying.native_comparison import compare_computed

        logging.disable_progress_bar()
        findings = chain(findings, compare_computed(folder, find_version(str(folder)), dtype=options.dtype))
    for finding in findings:
        print(f"{finding.subject}: {finding.said}")
        for fault in finding.faults:
            print(f"  differs: {fault}")
        num_faults += len(finding.faults)
    print(f"{num_faults} differences" if num_faults else "no differences")
    return 1 if num_faults else 0
