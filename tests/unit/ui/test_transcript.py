"""What the page shows of a conversation."""

from __future__ import annotations

from typing import Any

import pytest

from minicpmv.inference.chat import Exchange
from minicpmv.ui.session import Pending
from minicpmv.ui.transcript import escape_markup, show_exchanges


def said(messages: list[dict[str, Any]]) -> list[tuple[str, Any]]:
    return [(message["role"], message["content"]) for message in messages]


def test_pictures_stand_before_the_question() -> None:
    exchange = Exchange("Which one?", ("a/one.png", "two.png"), "The first.")
    assert said(show_exchanges([exchange], None, 0)) == [
        ("user", {"path": "a/one.png", "alt_text": "one.png"}),
        ("user", {"path": "two.png", "alt_text": "two.png"}),
        ("user", "Which one?"),
        ("assistant", "The first."),
    ]


def test_an_answer_that_is_being_written_is_the_speaker_s_own() -> None:
    pending = Pending("Why?", (), ["Because", ""])
    assert said(show_exchanges([], pending, 0)) == [("user", "Why?"), ("assistant", "Because")]
    assert said(show_exchanges([], pending, 1)) == [("user", "Why?"), ("assistant", "…")]


def test_empty_and_stopped_answers_are_told() -> None:
    exchanges = [Exchange("a", (), ""), Exchange("b", (), "half of", was_stopped=True)]
    assert [content for role, content in said(show_exchanges(exchanges, None, 0)) if role == "assistant"] == [
        "*(an empty answer)*",
        "half of\n\n*(stopped)*",
    ]


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
