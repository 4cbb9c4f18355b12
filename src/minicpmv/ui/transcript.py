"""Turns a conversation into messages in Gradio's form, with text as it was written."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from minicpmv.inference.chat import Exchange
from minicpmv.processing.text.thinking import THINK, THOUGHT, split_thinking
from minicpmv.ui.session import Pending
from minicpmv.ui.uploads import paths_of

__all__ = ["show_exchanges"]

_CODE = re.compile(r"(^ {0,3}```[^`\n]*\n.*?(?:^ {0,3}`{3,}[ \t]*$|\Z))", re.DOTALL | re.MULTILINE)
"""Code blocks between lines of their own. Code within a line is left out: Markdown's rules for it can be abused."""
_TAG = re.compile(r"<(?=[a-zA-Z/!?])")
_PICTURE = re.compile(r"!\[")

_WAITING, _EMPTY, _STOPPED = "…", "*(an empty answer)*", "\n\n*(stopped)*"


def show_exchanges(exchanges: Sequence[Exchange], pending: Pending | None, number: int) -> list[dict[str, Any]]:
    """Return the messages of one speaker's conversation, with the question that is being answered, if any."""
    shown = [message for exchange in exchanges for message in _exchange(exchange)]
    if pending is not None:
        files = (*pending.images, *paths_of(pending.films))
        shown += [*_question(pending.question, files), *_answer(pending.written[number], is_whole=False)]
    return shown


def _exchange(exchange: Exchange) -> Iterator[dict[str, Any]]:
    yield from _question(exchange.question, (*exchange.images, *paths_of(exchange.films)))
    yield from _answer(exchange.answer, is_whole=True, end=_STOPPED if exchange.was_stopped else "")


def _question(text: str, files: Sequence[str]) -> Iterator[dict[str, Any]]:
    for file in files:
        yield {"role": "user", "content": {"path": file, "alt_text": Path(file).name}}
    if text:
        yield {"role": "user", "content": escape_markup(text)}


def _answer(text: str, *, is_whole: bool, end: str = "") -> Iterator[dict[str, Any]]:
    if text.startswith(THINK):
        thought, said = _split(text)
        status = "pending" if said is None and not is_whole else "done"
        yield {
            "role": "assistant",
            "content": escape_markup(thought) or _WAITING,
            "metadata": {"title": "Thinking", "status": status},
        }
        if said is None:
            return
        text = said
    empty = _EMPTY if is_whole else _WAITING
    yield {"role": "assistant", "content": (escape_markup(text) if text.strip() else empty) + end}


def _split(text: str) -> tuple[str, str | None]:
    """Split an answer into thoughts and text, which is None while the model is still thinking."""
    if THOUGHT in text:
        answer = split_thinking(text)
        return answer.thought, answer.text
    return text.removeprefix(THINK).strip("\n"), None


def escape_markup(text: str) -> str:
    r"""Escape text that Markdown would take for a tag or a picture, such as the models' ``<box>``.

    A picture would be fetched from any address that an answer contains, and could leak data in it.

    >>> escape_markup("<box>1 2 3 4</box>, a < b, ![x](y)")
    '&lt;box>1 2 3 4&lt;/box>, a < b, &#33;&#91;x](y)'
    """
    pieces = _CODE.split(text)  # code blocks are at odd positions
    return "".join(piece if place % 2 else _escape(piece) for place, piece in enumerate(pieces))


def _escape(text: str) -> str:
    return _PICTURE.sub("&#33;&#91;", _TAG.sub("&lt;", text))
