"""``minicpmv chat``: one question, or a dialogue when none is given."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from minicpmv.cli.model_options import add_model_options, generation_settings, open_model
from minicpmv.errors import MiniCPMVError, UsageError

if TYPE_CHECKING:  # for annotations only: importing it would load torch before any option is read
    from minicpmv.inference.chat import Conversation

__all__ = ["NAME", "SUMMARY", "run"]

NAME = "chat"
SUMMARY = "talk to a base model, a fully tuned model or an adapter"

_EXAMPLES = """examples:
  minicpmv chat output/lora --image cat.jpg "What is this?"
  minicpmv chat output/lora --image page1.png --image page2.png
"""

_HELP = "Type a question. /image PATH adds a picture to the next one, /clear starts anew, /quit or Ctrl-D ends."


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"minicpmv {NAME}",
        description="Ask one QUESTION about any number of images, or hold a dialogue when no question is given. "
        "Answers are streamed. The likeliest tokens are taken unless --sample is given.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model_options(parser, max_new_tokens=1024, with_thoughts=2048)
    parser.add_argument("question", nargs="?", metavar="QUESTION", help="left out: a dialogue begins")
    parser.add_argument("--image", action="append", default=[], metavar="FILE", help="picture to show; may be repeated")
    parser.add_argument("--system", metavar="TEXT", help="instruction before the first question (2.5 and later)")
    parser.add_argument("--sample", action="store_true", help="draw tokens at random, as the released chat() does")
    parser.add_argument("--temperature", type=float, help="with --sample (default: 0.7)")
    parser.add_argument("--top-p", type=float, help="with --sample (default: 0.8; 1 with --thinking)")
    parser.add_argument("--top-k", type=int, help="with --sample (default: 100; 50 with --thinking)")
    parser.add_argument("--seed", type=int, help="makes --sample repeatable")
    return parser


def run(arguments: Sequence[str]) -> int:
    """Load the model and talk."""
    options = _build_parser().parse_intermixed_args(arguments)
    for file in options.image:
        _check_file(file)
    loaded = open_model(options)

    from transformers import set_seed

    from minicpmv.inference.chat import Conversation

    if options.seed is not None:
        set_seed(options.seed)
    settings = generation_settings(options)
    conversation = Conversation(loaded, settings=settings, system=options.system)
    if options.question is not None:
        _ask(conversation, options.question, options.image)
    else:
        _dialogue(conversation, options.image)
    return 0


def _check_file(file: str) -> None:
    if not Path(file).is_file():
        raise UsageError(f"image: found no file {file!r}, expected a picture\n  fix: correct the path")


def _ask(conversation: Conversation, question: str, images: list[str]) -> None:
    conversation.ask(question, images, on_text=lambda text: print(text, end="", flush=True))
    print(flush=True)


def _dialogue(conversation: Conversation, images: list[str]) -> None:
    interactive = sys.stdin.isatty()
    if interactive:
        print(_HELP)
    waiting = list(images)
    while True:
        try:
            line = input("\nyou: " if interactive else "").strip()
        except EOFError:
            return
        try:
            if line == "/quit":
                return
            if line == "/clear":
                conversation.clear()
                waiting = []
            elif line.startswith("/image"):
                file = line.removeprefix("/image").strip()
                _check_file(file)
                waiting.append(file)
            elif line:
                _ask(conversation, line, waiting)
                waiting = []
        except MiniCPMVError as error:  # a wrong line must not end the dialogue
            if not interactive:
                raise
            print(error, file=sys.stderr)
