"""What the page shows of a conversation."""

from __future__ import annotations

import html
import re
from typing import Any

import pytest

from minicpmv.inference.chat import Exchange
from minicpmv.ui.notes import Clock, Note
from minicpmv.ui.session import Pending
from minicpmv.ui.transcript import escape_markup, literal, show_exchanges


def said(messages: list[dict[str, Any]]) -> list[tuple[str, Any]]:
    return [(message["role"], message["content"]) for message in messages]


def test_pictures_stand_before_the_question() -> None:
    exchange = Exchange("Which one?", ("a/one.png", "two.png"), "The first.")
    assert said(show_exchanges([exchange], None, 0)) == [
        ("user", {"path": "a/one.png", "alt_text": "one.png"}),
        ("user", {"path": "two.png", "alt_text": "two.png"}),
        ("user", literal("Which one?")),
        ("assistant", f"{literal('The first.', 'written')}\n\nThe first."),
    ]


def test_an_answer_that_is_being_written_is_the_speaker_s_own() -> None:
    pending = Pending("Why?", (), ["Because", ""])
    assert said(show_exchanges([], pending, 0)) == [("user", literal("Why?")), ("assistant", "Because")]
    assert said(show_exchanges([], pending, 1)) == [("user", literal("Why?")), ("assistant", "…")]


def test_empty_and_stopped_answers_are_told() -> None:
    exchanges = [Exchange("a", (), ""), Exchange("b", (), "half of", was_stopped=True)]
    assert [content for role, content in said(show_exchanges(exchanges, None, 0)) if role == "assistant"] == [
        "*(an empty answer)*",
        f"{literal('half of', 'written')}\n\nhalf of\n\n*(stopped)*",
    ]


_HOSTILE = "\n**a**\t<b onclick=x>\n\n```\n$$x$$ %%%LATEX_BLOCK_0%%% </pre><script>alert(1)</script> &lt; `c`\n"


def test_what_is_literal_holds_no_sign_of_any_language_and_reads_as_it_was() -> None:
    inside = re.fullmatch(r'<pre class="plain">\n(.*)</pre>', literal(_HOSTILE))
    assert inside is not None
    assert re.fullmatch(r"(?:[A-Za-z0-9 ]|&#\d+;)*", inside[1])
    assert html.unescape(inside[1]) == _HOSTILE


def test_in_plain_text_thoughts_and_answers_are_literal() -> None:
    exchange = Exchange("?", (), f"<think>\n*a*\n</think>\n\n{_HOSTILE.strip()}")
    shown = [content for role, content in said(show_exchanges([exchange], None, 0, is_plain=True)) if role != "user"]
    assert shown == [literal("*a*"), literal(_HOSTILE.strip())]


def test_a_note_is_escaped_and_judges_a_short_answer() -> None:
    note = Note(shown=("<i> px",), clock=Clock(), expected=("<b>four</b>",))
    (content,) = [content for _, content in said(show_exchanges([Exchange("", (), "4")], None, 0, notes=[note]))][1:]
    assert content == (
        '<div class="expectation"><span>expected <b class="wrong">✗ wrong</b></span>'
        f"{literal('<b>four</b>', 'expected')}</div>"
        '<p class="facts">&lt;i&gt; px · answer: no token</p>'
    )


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("<think>\n", [("…", "pending")]),
        ("<think>\n1 + ", [("1 +", "pending")]),
        ("<think>\n1 + 1\n</think>", [("1 + 1", "done"), ("…", None)]),
        ("<think>\n1 + 1\n</think>\n\n2", [("1 + 1", "done"), ("2", None)]),
    ],
)
def test_thoughts_stand_apart(written: str, shown: list[tuple[str, str | None]]) -> None:
    messages = show_exchanges([], Pending("?", (), [written]), 0)[1:]
    assert [(m["content"].strip(), m.get("metadata", {}).get("status")) for m in messages] == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<ref>a cat</ref><box>1 2 3 4</box>", "&lt;ref>a cat&lt;/ref>&lt;box>1 2 3 4&lt;/box>"),
        ("<script>alert(1)</script>", "&lt;script>alert(1)&lt;/script>"),
        ("a < b, 3 <4", "a < b, 3 <4"),
        ("```html\n<b>\n```\n<b>", "```html\n<b>\n```\n&lt;b>"),
        ("```\n<b>", "```\n<b>"),
        # What looks like code within a line, and is none to Markdown.
        ("`<i>` <i>", "`&lt;i>` &lt;i>"),
        ("\\`<b>\\`", "\\`&lt;b>\\`"),
        ("a ```<b>``` c", "a ```&lt;b>``` c"),
        ("```a`b\n<b>\n```", "```a`b\n&lt;b>\n```"),
        ("    ```\n<b>\n    ```", "    ```\n&lt;b>\n    ```"),
        ("```\n<b>\n````\n<i>", "```\n<b>\n````\n&lt;i>"),
        ("\\`![x](http://y)\\`", "\\`&#33;&#91;x](http://y)\\`"),
    ],
)
def test_tags_are_shown_and_not_obeyed(text: str, shown: str) -> None:
    assert escape_markup(text) == shown
