"""Runs ``minicpmv merge``: merges an adapter and its base into one model directory."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from minicpmv.cli.model_options import add_base_option, model_name
from minicpmv.cli.parser import CommandParser
from minicpmv.terminal.waiting import waiting

if TYPE_CHECKING:  # for annotations only: importing it would load torch before any option is read
    from minicpmv.export.merging.merge import Merged

__all__ = ["NAME", "SUMMARY", "run"]

NAME = "merge"
SUMMARY = "merge an adapter into its base, as one self-contained directory"

_EXAMPLES = """examples:
  minicpmv merge output/lora output/merged
  minicpmv merge output/lora output/merged --dtype float32 --max-shard-size 2GB
"""


def _build_parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog=f"minicpmv {NAME}",
        description="Merge an adapter into its base model, layer by layer in float32 and rounded once, and write a "
        "model directory in the released layout. The result is compared with base and adapter before it is moved into "
        "place, and refused if it differs by more than rounding.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("adapter", metavar="ADAPTER", help="directory of an adapter")
    parser.add_argument("output", metavar="OUT", help="directory to make")
    parser.add_argument(
        "--base",
        type=model_name,
        metavar="MODEL",
        help="base model's directory or hub name (default: the one that the adapter names)",
    )
    add_base_option(parser)
    parser.add_argument(
        "--dtype",
        choices=["float32", "bfloat16", "float16"],
        help="number format of all weights (default: as stored in the base)",
    )
    parser.add_argument(
        "--max-shard-size", metavar="SIZE", default="5GB", help="largest size of one weight file (default: %(default)s)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace OUT, if it holds a model and nothing else")
    parser.add_argument(
        "--no-verify",
        action="store_true",
        help="do not compare the result, which takes the memory of the model in float32; merging takes that of one "
        "layer",
    )
    parser.add_argument(
        "--device", help="where to compare: cpu, cuda, ... (default: the first GPU with room, else cpu)"
    )
    return parser


def run(arguments: Sequence[str]) -> int:
    """Merge, and print what was done and how close the result is."""
    options = _build_parser().parse_intermixed_args(arguments)
    import torch
    from tqdm import tqdm
    from transformers.utils import logging

    from minicpmv.export.merging.merge import MergeSettings, merge_adapter

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    settings = MergeSettings(
        base=options.base,
        dtype=getattr(torch, options.dtype) if options.dtype else None,
        max_shard_size=options.max_shard_size,
        overwrite=options.overwrite,
        is_verified=not options.no_verify,
        device=options.device,
        allow_other_base=options.allow_other_base,
    )
    with (
        waiting(f"merging {options.adapter} into its base, and comparing"),
        tqdm(unit="B", unit_scale=True, disable=not sys.stderr.isatty()) as bar,
    ):

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        merged = merge_adapter(options.adapter, options.output, settings, on_tensor=show)
    print(_describe(merged))
    return 0


def _describe(merged: Merged) -> str:
    files = f"{len(merged.files)} files" if merged.files[1:] else merged.files[0]
    carried = f", {merged.num_carried} carried over byte for byte" if merged.num_carried else ""
    lines = [
        f"Merged: LoRA into {merged.num_lora_modules} layers, {merged.num_replaced} tensors replaced, "
        f"{merged.num_untouched} as in {merged.base}{carried}; {merged.bytes:,} bytes in {files}"
    ]
    if merged.compared_on is not None:
        lines.append(f"Compared with base and adapter on {merged.compared_on}:")
        lines += [f"  in {agreement.dtype}, {agreement}" for agreement in merged.agreements]
    else:
        lines.append("Not compared with base and adapter")
    return "\n".join([*lines, f"Saved:  {merged.directory}"])
