"""Runs ``minicpmv chat``: answers one question, or holds a dialogue if none is given."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from minicpmv.cli.dialogue import AnswerPrinter, check_file, hold_dialogue
from minicpmv.cli.film_options import add_film_options, check_film_options, film_opener, name_frames
from minicpmv.cli.film_options import check_release as check_films
from minicpmv.cli.model_options import (
    add_model_options,
    add_sampling_options,
    check_sampling,
    generation_settings,
    open_model,
)
from minicpmv.cli.parser import CommandParser
from minicpmv.cli.tools_file import check_release, read_tools_file
from minicpmv.errors import UsageError

__all__ = ["NAME", "SUMMARY", "run"]

NAME = "chat"
SUMMARY = "talk to a base model, a fully tuned model or an adapter"

_EXAMPLES = """examples:
  minicpmv chat output/lora --image cat.jpg "What is this?"
  minicpmv chat output/lora --image page1.png --image page2.png
  minicpmv chat output/lora --video match.mp4 --start 60 --end 90 "Who scores?"
"""


def _build_parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog=f"minicpmv {NAME}",
        description="Ask one QUESTION about any number of images and films, or start a dialogue if there is none. "
        "Answers are streamed, with the likeliest token each time unless --sample is given. In a dialogue, /help lists "
        "the commands: add pictures and films, undo, start over, save as a training record.",
        epilog=_EXAMPLES,
    )
    add_model_options(parser, max_new_tokens=1024, with_thoughts=2048)
    parser.add_argument("question", nargs="?", metavar="QUESTION", help="question; without one, a dialogue starts")
    parser.add_argument("--image", action="append", default=[], metavar="FILE", help="picture to show; may be repeated")
    add_film_options(parser)
    parser.add_argument("--system", metavar="TEXT", help="instruction before the first question (2.5 and later)")
    parser.add_argument(
        "--tools",
        metavar="FILE",
        help="JSON file of functions that the model may call, in OpenAI's form (4.6 and later); its calls are shown, "
        "and in a dialogue /result gives their results",
    )
    add_sampling_options(parser)
    return parser


def run(arguments: Sequence[str]) -> int:
    """Load the model and talk.

    Raises:
        UsageError: The question is blank, and nothing is shown.
    """
    parser = _build_parser()
    options = parser.parse_intermixed_args(arguments)
    check_sampling(options)
    check_film_options(parser, options)
    for file in options.image:
        check_file(file)
    open_one = film_opener(options)
    if options.question is not None and not (options.question.strip() or options.image or options.video):
        raise UsageError(
            "QUESTION: found no text and no picture, expected a question\n"
            "  fix: write one, or leave it out for a dialogue"
        )
    films = [open_one(film) for film in options.video]
    if films:
        check_films(options.model)
    tools = read_tools_file(options.tools) if options.tools else []
    if tools:
        check_release(options.model)
    loaded = open_model(options)

    from transformers import set_seed

    from minicpmv.inference.chat import Conversation

    if options.seed is not None:
        set_seed(options.seed)
    conversation = Conversation(loaded, settings=generation_settings(options), system=options.system, tools=tools)
    if options.question is None:
        hold_dialogue(conversation, options.image, films, open_one)
    else:
        shown = AnswerPrinter()
        for line in name_frames(loaded.processor, films):
            print(line, file=sys.stderr)
        conversation.ask(options.question, options.image, films=films, on_text=shown.text, on_call=shown.call)
        print(flush=True)
    return 0
