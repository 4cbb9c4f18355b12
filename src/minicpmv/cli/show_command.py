"""Runs ``minicpmv show``: writes a page with what the model sees of some records."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence

from minicpmv.cli.data_options import add_image_root
from minicpmv.cli.model_options import model_name, positive_int, seed_int
from minicpmv.cli.output_file import check_output
from minicpmv.cli.parser import CommandParser
from minicpmv.errors import DataError
from minicpmv.pages.marks import page_of
from minicpmv.terminal.waiting import waiting

__all__ = ["NAME", "SUMMARY", "run"]

NAME = "show"
SUMMARY = "write a page that shows records as the model reads them"

_SAMPLED = 8

_EXAMPLES = """examples:
  minicpmv show train.json --model output/demo/model
  minicpmv show train.json --model output/demo/model --record digit-0003 --record 17 --output page.html
"""


def _build_parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog=f"minicpmv {NAME}",
        description="Write one HTML page that shows records as the model reads them in training: the conversation, "
        "the images with the lines where they are cut, every token with its id and whether it is trained, and "
        "the lengths. The page is self-contained and needs no network.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("data", metavar="DATA", help="file of records, as for training")
    parser.add_argument(
        "--model",
        type=model_name,
        required=True,
        metavar="PATH",
        help="directory of a base model, a tuned model or an adapter",
    )
    parser.add_argument(
        "--output",
        default="show.html",
        metavar="FILE",
        help="page to write (default: %(default)s); replaces an earlier page, and no other file",
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--record",
        action="extend",
        nargs="+",
        default=[],
        metavar="ID|INDEX",
        help="records to show, by id, or by position from 0; may be repeated",
    )
    which.add_argument(
        "--sample", type=positive_int, metavar="N", help=f"show N records drawn at random (default: {_SAMPLED})"
    )
    parser.add_argument("--seed", type=seed_int, default=0, metavar="S", help="seed of --sample (default: %(default)s)")
    add_image_root(parser)
    parser.add_argument(
        "--model-max-length",
        type=positive_int,
        default=2048,
        metavar="N",
        help="as training's --model_max_length (default: %(default)s)",
    )
    parser.add_argument(
        "--max-slice-nums",
        type=positive_int,
        metavar="N",
        help="most tiles cut from one picture (default: the checkpoint's own)",
    )
    parser.add_argument(
        "--truncate-answers",
        action="store_true",
        help="as training's --truncate_answers true: truncate answers that are too long",
    )
    return parser


def run(arguments: Sequence[str]) -> int:
    """Read and check the data, write the page of records without a problem, say where it is.

    Raises:
        DataError: No record can be shown.
    """
    options = _build_parser().parse_args(arguments)
    check_output(options.output, options.data, replaces=page_of(NAME))
    with waiting(f"reading {options.data}"):
        return _show(options)


def _show(options: argparse.Namespace) -> int:
    from minicpmv.data.samples.dataset import ConversationDataset
    from minicpmv.data.sources.survey import Survey
    from minicpmv.evaluation.score_files import open_replacing
    from minicpmv.inference.loading import find_version, load_processor
    from minicpmv.show.page import Header, render_page
    from minicpmv.show.selection import select_records

    survey = Survey([options.data], image_root=options.image_root, version=find_version(options.model))
    survey.read_texts()
    if unreadable := [finding.problem for finding in survey.findings if finding.record is None]:
        raise DataError(unreadable)
    survey.read_images(decode=False)
    survey.read_films()
    num_records, num_sound = len(survey.records), len(survey.sound_records())
    count = options.sample or _SAMPLED
    chosen = select_records(survey, names=options.record, sample=count, seed=options.seed)
    dataset = ConversationDataset(
        chosen,
        load_processor(options.model),
        max_length=options.model_max_length,
        max_slice_nums=options.max_slice_nums,
        truncate_answers=options.truncate_answers,
    )
    drawn = not options.record and len(chosen) < num_sound
    header = Header(
        data=options.data,
        model=options.model,
        num_records=num_records,
        choice=f"drawn with seed {options.seed}" if drawn else "",
        num_faulty=num_records - num_sound,
    )
    page = render_page(dataset, header)
    with open_replacing(options.output) as file:
        file.write(page.encode())
    print(f"{len(chosen)} of {num_records} records: {options.output}")
    if num_sound < num_records:
        root = ["--image-root", options.image_root] if options.image_root else []
        command = shlex.join(["minicpmv", "check", options.data, "--model", options.model, *root])
        print(f"{num_records - num_sound} with problems, not shown: `{command}` names them")
    return 0
