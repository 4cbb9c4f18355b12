"""Runs ``minicpmv scripts``: copies the shell scripts that train out of the installed package."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence

from minicpmv.cli.parser import CommandParser

__all__ = ["NAME", "SUMMARY", "run"]

NAME = "scripts"
SUMMARY = "copy the shell scripts that train, such as finetune_lora.sh, into a directory, to edit and run"

_EXAMPLES = """examples:
  minicpmv scripts
  minicpmv scripts --output recipes
"""


def _build_parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog=f"minicpmv {NAME}",
        description="Copy the shell scripts that train out of the installed package: finetune_lora.sh, finetune_ds.sh, "
        "finetune_dpo.sh and what they share. `sh finetune_lora.sh` then trains the demo, and with MODEL and DATA set "
        "your own model. A script that you have changed is never replaced.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("--output", default=".", help="directory to write to (default: the current one)")
    return parser


def run(arguments: Sequence[str]) -> int:
    """Copy the scripts, and print how each is started."""
    options = _build_parser().parse_intermixed_args(arguments)
    from minicpmv.training.launching.shell_scripts import copy_scripts

    for path in copy_scripts(options.output):
        print(shlex.join(["sh", str(path)]))
    return 0
