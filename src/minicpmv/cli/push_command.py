"""Runs ``minicpmv push``: uploads a finished model to a hub."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from minicpmv.cli.parser import CommandParser
from minicpmv.wording import counted

__all__ = ["NAME", "SUMMARY", "run"]

NAME = "push"
SUMMARY = "upload a tuned model to Hugging Face's hub or to ModelScope: its files and its card, nothing else"

_EXAMPLES = """examples:
  minicpmv push output/lora me/receipts --base openbmb/MiniCPM-V-4_5 --dry-run
  minicpmv push output/merged modelscope:me/receipts
"""


def _build_parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog=f"minicpmv {NAME}",
        description="Upload the files that belong to a model, and a card if there is no README.md yet. Checkpoints, "
        "optimizer states, logs, reports and settings of the run stay here. The repository is made if there is none. "
        "Tokens are those of the hubs' own clients: HF_TOKEN or `hf auth login`, MODELSCOPE_API_TOKEN or `ms login`.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("model", metavar="DIRECTORY", help="directory of an adapter, a whole model or GGUF files")
    parser.add_argument("name", metavar="NAME", help="owner/name, or modelscope:owner/name")
    parser.add_argument(
        "--base", metavar="NAME", help="an adapter's base on a hub, in place of the directory that the adapter states"
    )
    parser.add_argument("--public", action="store_true", help="make a new repository public (default: private)")
    parser.add_argument("--dry-run", action="store_true", help="print what would be uploaded, and end")
    return parser


def run(arguments: Sequence[str]) -> int:
    """Upload, and print what and where to."""
    options = _build_parser().parse_args(arguments)
    from minicpmv.releases.publishing import plan_push, push

    plan = plan_push(options.model, options.name, base=options.base)
    for file in plan.files:
        print(f"upload    {file}")
    if plan.left_out:
        print(f"left out  {', '.join(plan.left_out)}")
    print(f"{counted(len(plan.files), 'file')}, {plan.num_bytes / 2**20:,.1f} MiB, to {plan.name}")
    if not options.dry_run:
        print(push(plan, is_private=not options.public))
    return 0
