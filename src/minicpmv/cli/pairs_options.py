"""Declares the options of ``minicpmv pairs``, and refuses those that do not go together."""

from __future__ import annotations

import argparse

from minicpmv.cli.data_options import add_image_root
from minicpmv.cli.model_options import (
    add_model_options,
    model_name,
    number_from_zero,
    positive_int,
    positive_number,
    seed_int,
)
from minicpmv.cli.parser import CommandParser

__all__ = ["build_parser", "check_usage", "least_gap"]

_EXAMPLES = """examples:
  minicpmv pairs output/lora train.json --judge anls --output pairs.jsonl
  minicpmv pairs output/lora train.json --output pairs.jsonl \\
      --judge-question 'Question: {question} Answer: {answer} Is this answer right? Answer yes or no.'
"""
_BATCH_SIZE = 16
_STEP_OF_JUDGE = 1.0
"""Smallest gap of scores that count accepted questions."""


def build_parser() -> CommandParser:
    """Build the parser of the command."""
    parser = CommandParser(
        prog="minicpmv pairs",
        description="Ask a model the last question of every record several times, with random tokens; score each "
        "answer by a metric against the recorded one, or by a model's yes or no to questions about it; and write pairs "
        "of a better and a worse answer to the same question, as records for training with preferences. Answers are "
        "kept in FILE.answers.jsonl, a model's judgements in FILE.judged.jsonl. The same command resumes after it was "
        "interrupted or killed, and gives the same pairs.",
        epilog=_EXAMPLES,
    )
    add_model_options(parser, max_new_tokens=512, with_thoughts=2048, many=True)
    parser.add_argument("data", metavar="DATA", help="file of records, as for training; they may end with a question")
    parser.add_argument("--output", required=True, metavar="FILE", help="file for the pairs, as JSON Lines")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace FILE, its answers and judgements, if of another run"
    )
    judge = parser.add_mutually_exclusive_group(required=True)
    judge.add_argument(
        "--judge", metavar="METRIC", help="score answers by this metric (`minicpmv eval --metrics list` lists all)"
    )
    judge.add_argument(
        "--judge-question",
        action="append",
        metavar="TEXT",
        help="score answers by a model: the question that it is asked about each, together with the pictures, with "
        "{question} and {answer} in it. The answer scores 1 if yes is likelier than no as the first token, else 0; the "
        "option may be repeated, and scores add up",
    )
    parser.add_argument(
        "--judge-model",
        type=model_name,
        metavar="MODEL",
        help="with --judge-question: the model that judges (default: the one that answers)",
    )
    parser.add_argument(
        "--answers", type=positive_int, default=10, metavar="N", help="answers to each (default: %(default)s)"
    )
    parser.add_argument(
        "--temperature", type=positive_number, default=0.7, metavar="T", help="of the answers (default: %(default)s)"
    )
    parser.add_argument(
        "--min-gap",
        type=number_from_zero,
        metavar="G",
        help=f"least difference between the scores of a pair (default: {_STEP_OF_JUDGE:g} with --judge-question; any "
        "with --judge)",
    )
    parser.add_argument(
        "--pairs-per-question",
        type=positive_int,
        default=2,
        metavar="N",
        help="most pairs of one (default: %(default)s)",
    )
    parser.add_argument(
        "--with-recorded",
        action="store_true",
        help="with --judge: where no answer scores as high as the recorded one, let that be the better answer, so that "
        "questions which are answered wrong every time give pairs, too",
    )
    parser.add_argument(
        "--keep-lengths",
        action="store_true",
        help="keep all pairs; by default some are dropped until the better answer is as often the longer one as the "
        "shorter one, so that training does not learn a length",
    )
    parser.add_argument(
        "--seed", type=seed_int, default=0, metavar="S", help="of answers and pairs (default: %(default)s)"
    )
    add_image_root(parser)
    parser.add_argument(
        "--batch-size",
        type=positive_int,
        default=_BATCH_SIZE,
        metavar="N",
        help="answers made at once (default: %(default)s)",
    )
    parser.set_defaults(sample=True, batch_tokens=None)
    return parser


def check_usage(parser: CommandParser, options: argparse.Namespace) -> None:
    """End the command with 2 where options do not go together."""
    if options.answers < 2:
        parser.error("--answers: found 1, expected at least 2, of which one may be better\n  fix: --answers 10")
    if options.judge_model and not options.judge_question:
        parser.error(
            "--judge-model: found without --judge-question, expected both\n"
            "  fix: add the question that it is asked, or remove it"
        )
    if options.with_recorded and options.judge_question:
        parser.error(
            "--with-recorded: found with --judge-question, expected --judge: a metric scores recorded answers\n"
            "  fix: remove it, or judge by a metric"
        )
    for question in options.judge_question or ():
        if "{answer}" not in question:
            parser.error(
                f"--judge-question: found {question!r}, expected {{answer}} in it, where the answer belongs\n"
                "  fix: 'Question: {question} Answer: {answer} Is this answer right? Answer yes or no.'"
            )


def least_gap(options: argparse.Namespace) -> float:
    """Return the least difference between the scores of a pair."""
    return (_STEP_OF_JUDGE if options.judge_question else 0.0) if options.min_gap is None else options.min_gap
