"""Runs ``minicpmv convert``: writes data of any readable form as JSON Lines in our form."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from minicpmv.cli.data_options import add_image_root
from minicpmv.cli.parser import CommandParser
from minicpmv.errors import UsageError
from minicpmv.wording import counted

__all__ = ["NAME", "SUMMARY", "run"]

NAME = "convert"
SUMMARY = "convert data of any readable form to JSON Lines in ours"

_EXAMPLES = """examples:
  minicpmv convert llava.json more.parquet --image-dir pictures --output train.jsonl
  minicpmv convert grounding.jsonl --pixel-boxes --output train.jsonl
"""


def _build_parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog=f"minicpmv {NAME}",
        description="Check data as training does and write all records, in order, to one JSON Lines file. With a "
        "problem in the data, nothing is written and every problem is named.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("data", metavar="DATA", nargs="+", help="file, folder of files or dataset directory")
    parser.add_argument("--output", metavar="FILE", required=True, help="the JSON Lines file to write")
    parser.add_argument("--overwrite", action="store_true", help="replace FILE, whatever it holds")
    add_image_root(parser, default="each file's own")
    parser.add_argument(
        "--image-dir",
        metavar="DIR",
        help="write embedded images into this folder (default: they stay embedded, as data: URLs)",
    )
    parser.add_argument(
        "--leave-out",
        metavar="KEY",
        action="append",
        default=[],
        help="leave out this key wherever it occurs, even if its content may matter; may be repeated",
    )
    parser.add_argument(
        "--pixel-boxes",
        action="store_true",
        help="boxes in <box>...</box>, or in [...] after </ref>, are in pixels: rescale them to 0..1000 as the models "
        "write them; do this only once",
    )
    return parser


def run(arguments: Sequence[str]) -> int:
    """Read, check and write; say what was written.

    Raises:
        UsageError: The output is one of the data files, or exists.
        MiniCPMVError: The data cannot be read or written.
    """
    options = _build_parser().parse_intermixed_args(arguments)
    from minicpmv.data.records.folders import find_files
    from minicpmv.data.sources.conversion import convert
    from minicpmv.files.places import check_directory, check_file

    sources = [os.path.realpath(file) for path in options.data for file in find_files(path)]
    if os.path.realpath(options.output) in sources:
        raise UsageError(
            f"--output {options.output}: found one of the data files, expected another file\n  fix: choose another file"
        )
    check_file(
        options.output,
        asked_by="--output",
        replaces="any" if options.overwrite else "none",  # what it writes has no mark: it is data like others
        makes_folder=True,
        instead="--overwrite",
    )
    if options.image_dir is not None:
        check_directory(options.image_dir, asked_by="--image-dir")
    done = convert(
        options.data,
        options.output,
        image_root=options.image_root,
        image_dir=options.image_dir,
        pixel_boxes=options.pixel_boxes,
        leave_out=options.leave_out,
    )
    for notice in done.notices:
        print(notice, file=sys.stderr)
    if done.left_out:
        why = "because nothing here reads them" + (", or as requested" if options.leave_out else "")
        print(f"left out, {why}: the keys {', '.join(done.left_out)}", file=sys.stderr)
    print(f"Wrote {counted(done.num_records, 'record')} to {options.output}")
    return 0
