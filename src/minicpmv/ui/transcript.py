"""Turns a conversation into messages in Gradio's form: text as it was written, or answers as Markdown.

The page's script copies an answer from the ``pre`` that holds it as it was written.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from minicpmv.inference.chat import Exchange
from minicpmv.processing.text.thinking import THINK, THOUGHT, split_thinking
from minicpmv.ui.notes import Note, is_right
from minicpmv.ui.session import Pending
from minicpmv.ui.uploads import paths_of

__all__ = ["literal", "show_exchanges"]

_CODE = re.compile(r"(^ {0,3}```[^`\n]*\n.*?(?:^ {0,3}`{3,}[ \t]*$|\Z))", re.DOTALL | re.MULTILINE)
"""Code blocks between lines of their own. Code within a line is left out: Markdown's rules for it can be abused."""
_TAG = re.compile(r"<(?=[a-zA-Z/!?])")
_PICTURE = re.compile(r"!\[")

_SIGN = re.compile(r"[!-/:-@\[-`{-~\r\n\t]")
"""All that could mean something to Markdown, HTML, or the formulas that Gradio looks for."""

_WAITING, _EMPTY, _STOPPED = "…", "*(an empty answer)*", "*(stopped)*"


def show_exchanges(
    exchanges: Sequence[Exchange],
    pending: Pending | None,
    number: int,
    *,
    notes: Sequence[Note] = (),
    is_plain: bool = False,
) -> list[dict[str, Any]]:
    """Return the messages of one speaker's conversation, with the question that is being answered, if any.

    Args:
        exchanges: Questions with their answers.
        pending: A question that is being answered.
        number: The speaker's, from 0.
        notes: What is known of the first answers.
        is_plain: Whether answers are shown as they were written, as questions always are; otherwise as Markdown.
    """
    shown: list[dict[str, Any]] = []
    for place, exchange in enumerate(exchanges):
        shown += _question(exchange.question, (*exchange.images, *paths_of(exchange.films)))
        end = _STOPPED if exchange.was_stopped else ""
        shown += _answer(exchange.answer, is_plain=is_plain, end=end)
        if place < len(notes):
            shown.append({"role": "assistant", "content": word_note(notes[place], exchange.answer)})
    if pending is not None:
        files = (*pending.images, *paths_of(pending.films))
        shown += [*_question(pending.question, files), *_answer(pending.written[number], is_plain=is_plain)]
    return shown


def _question(text: str, files: Sequence[str]) -> Iterator[dict[str, Any]]:
    for file in files:
        yield {"role": "user", "content": {"path": file, "alt_text": Path(file).name}}
    if text:
        yield {"role": "user", "content": literal(text)}


def _answer(text: str, *, is_plain: bool, end: str | None = None) -> Iterator[dict[str, Any]]:
    """Yield an answer, and mark its end; without one it is still being written."""
    if text.startswith(THINK):
        thought, said = _split(text)
        status = "pending" if said is None and end is None else "done"
        yield {
            "role": "assistant",
            "content": (literal(thought) if is_plain else escape_markup(thought)) if thought else _WAITING,
            "metadata": {"title": "Thinking", "status": status},
        }
        if said is None:
            return
        text = said
    if not text.strip():
        content = _WAITING if end is None else _EMPTY
    elif is_plain:
        content = literal(text)
    else:
        content = escape_markup(text) if end is None else f"{literal(text, 'written')}\n\n{escape_markup(text)}"
    yield {"role": "assistant", "content": f"{content}\n\n{end}" if end else content}


def word_note(note: Note, answer: str) -> str:
    """Return what is known of an answer as HTML on one line."""
    facts = html.escape(" · ".join([*note.shown, str(note.clock)]))
    return f'{_word_expected(note, answer)}<p class="facts">{facts}</p>'


def _word_expected(note: Note, answer: str) -> str:
    if not note.expected:
        return ""
    verdicts = {True: ' <b class="right">✓ right</b>', False: ' <b class="wrong">✗ wrong</b>', None: ""}
    texts = "".join(literal(text, "expected") for text in note.expected)
    return f'<div class="expectation"><span>expected{verdicts[is_right(note, answer)]}</span>{texts}</div>'


def literal(text: str, kind: str = "plain") -> str:
    r"""Return HTML, for use in Markdown, that shows a text as it is, white space included.

    >>> literal("**a** <b>\n")
    '<pre class="plain">\n&#42;&#42;a&#42;&#42; &#60;b&#62;&#10;</pre>'
    """
    # The first line break is no part of what is shown, by HTML's rules: else one of the text's would be lost.
    return f'<pre class="{kind}">\n{_SIGN.sub(lambda sign: f"&#{ord(sign[0])};", text)}</pre>'


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
