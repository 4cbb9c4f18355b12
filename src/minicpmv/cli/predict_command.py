"""Runs ``minicpmv predict``: writes a model's answers to all questions of a data file."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minicpmv.cli.data_options import add_image_root
from minicpmv.cli.model_options import (
    add_model_options,
    add_sampling_options,
    check_sampling,
    generation_settings,
    open_many,
    positive_int,
)
from minicpmv.cli.parser import CommandParser
from minicpmv.terminal.redaction import clean_settings

if TYPE_CHECKING:  # for annotations only: importing it would load torch before any option is read
    from minicpmv.data.records.answers import Answers
    from minicpmv.inference.generation import GenerationSettings

__all__ = ["NAME", "SUMMARY", "run"]

NAME = "predict"
SUMMARY = "let a model answer every record of a data file"

_EXAMPLES = """examples:
  minicpmv predict output/lora questions.jsonl --output predictions.jsonl
  minicpmv predict output/lora questions.jsonl --output drawn.jsonl --sample --seed 1 --batch-tokens 32768
"""
_BATCH_SIZE = 16
_SEED = 0


def _build_parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog=f"minicpmv {NAME}",
        description="Ask a model the last question of every record, or all, and write a line of JSON for each, in the "
        "order of DATA: index, id, question, answer, the recorded answer (if any) as the reference, and "
        "the record's references if it lists any. The same command resumes after it was interrupted or killed.",
        epilog=_EXAMPLES,
    )
    add_model_options(parser, max_new_tokens=1024, with_thoughts=2048, many=True)
    parser.add_argument("data", metavar="DATA", help="file of records, as for training; they may end with a question")
    parser.add_argument("--output", required=True, metavar="FILE", help="file for the answers, as JSON Lines")
    parser.add_argument("--overwrite", action="store_true", help="replace a finished FILE, or answers of another run")
    parser.add_argument(
        "--turns",
        choices=("last", "all"),
        default="last",
        help="questions of a record to ask: its last, or every one, each after the recorded answers before "
        "it; one whose answer has weight 0 is only context (default: %(default)s)",
    )
    add_image_root(parser)
    parser.add_argument(
        "--batch-size",
        type=positive_int,
        metavar="N",
        help=f"most records answered at once (default: {_BATCH_SIZE}; any number with --batch-tokens)",
    )
    parser.add_argument(
        "--batch-tokens",
        type=positive_int,
        metavar="N",
        help="most tokens answered at once: records x (longest prompt + longest answer), which determines memory; "
        "a longer record is answered alone",
    )
    add_sampling_options(parser, seed=_SEED)
    return parser


def run(arguments: Sequence[str]) -> int:
    """Read the data, answer the remaining questions, and write the file."""
    parser = _build_parser()
    options = parser.parse_intermixed_args(arguments)
    check_sampling(options)
    if options.batch_size is None and options.batch_tokens is None:
        options.batch_size = _BATCH_SIZE

    from minicpmv.inference.answer_file import check_output, check_place

    check_place(Path(options.output))
    settings = generation_settings(options)
    asked, identity = _read(options, settings)
    if check_output(Path(options.output), identity, overwrite=options.overwrite):
        print(f"{options.output} holds this run's {len(asked):,} answers: nothing to do")
        return 0
    _answer(options, settings, asked, identity)
    return 0


def _read(options: argparse.Namespace, settings: GenerationSettings) -> tuple[Answers, dict[str, Any]]:
    """Check the data; return the questions, and everything that the answers depend on."""
    from minicpmv.data.records.answers import Answers
    from minicpmv.data.records.file_state import FileStates
    from minicpmv.data.records.reading import log_notice
    from minicpmv.data.sources.loading import Records, check_records
    from minicpmv.data.sources.source_digests import open_source
    from minicpmv.errors import DataError
    from minicpmv.inference.identity import describe_identity
    from minicpmv.inference.loading import compare_own_base, default_device, find_version

    version = find_version(options.model)
    raw, content = open_source(options.data)
    images = FileStates()
    checked = check_records(raw, image_root=options.image_root, version=version, states=images, for_training=False)
    if checked.problems:
        raise DataError([problem for _, problem in checked.problems])
    for notice in checked.notices:
        log_notice(notice)
    identity = describe_identity(
        model=options.model,
        data=options.data,
        content=content,
        images=images,
        settings=settings,
        turns=options.turns,
        seed=_SEED if options.seed is None else options.seed,
        batch_size=options.batch_size,
        max_batch_tokens=options.batch_tokens,
        device=default_device(options.device),
        dtype=options.dtype,
        other_base=compare_own_base(options.model, allow_other=options.allow_other_base),
    )
    records = Records(raw, checked.sizes, checked.films, image_root=options.image_root)
    return Answers(records, every=options.turns == "all"), clean_settings(identity)


def _answer(
    options: argparse.Namespace, settings: GenerationSettings, asked: Answers, identity: dict[str, Any]
) -> None:
    from tqdm import tqdm

    from minicpmv.inference.answer_file import PartialAnswers
    from minicpmv.inference.predicting import Answering
    from minicpmv.inference.questions import choose, plan_questions

    limit = settings.max_slice_nums
    with open_many(options, num_batches=-(-len(asked) // (options.batch_size or 1))) as models:
        batches = plan_questions(
            models.processor,
            asked,
            settings=settings,
            batch_size=options.batch_size,
            max_batch_tokens=options.batch_tokens,
        )
        with (
            PartialAnswers(Path(options.output), identity, asked=asked, batches=batches) as answers,
            tqdm(total=len(asked), unit=" answers", disable=not sys.stderr.isatty()) as bar,
        ):
            before = sum(map(len, batches[: answers.num_done]))
            bar.update(before)
            begun = time.monotonic()
            questions = (choose(asked, each.tolist(), max_slice_nums=limit) for each in batches[answers.num_done :])
            for answered in models.map(Answering(settings=settings, seed=identity["seed"]), questions):
                answers.add(answered)
                bar.update(len(answered))
            seconds = time.monotonic() - begun
            answers.finish()
    new = len(asked) - before
    earlier = f" ({before:,} more were answered earlier)" if before else ""
    rate = f" in {seconds:,.1f} s, {new / max(seconds, 1e-9):,.1f}/s" if new else ""
    print(f"answered {new:,} questions{rate}{earlier}: {options.output}")
    if said := str(asked.share):
        print(f"asked for {said}{'; --turns all asks for every one' if options.turns == 'last' else ''}")
