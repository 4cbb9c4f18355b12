"""Calls in an answer, as it is written and whole."""

from __future__ import annotations

import json
from typing import Any

import pytest

from minicpmv.processing.text.answer_calls import CallReader, split_calls
from minicpmv.processing.text.tool_calls import ToolCall, make_call, read_calls, spell_calls, to_openai

PROPERTIES = {
    "text": {"type": "string"},
    "maybe": {"anyOf": [{"type": "string"}, {"type": "null"}]},
    "either": {"type": ["string", "integer"]},
    "number": {"type": "number"},
}
TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": "find", "parameters": {"type": "object", "properties": PROPERTIES}}}
]
CALLS = (ToolCall("find", (("text", '"7"'), ("number", "7"))), ToolCall("other"))
WRITTEN = spell_calls("I look.", CALLS)


@pytest.mark.parametrize("size", [1, 2, 5, 1000])
def test_pieces_of_any_size_give_the_text_and_the_calls(size: int) -> None:
    reader = CallReader(TOOLS)
    pieces = [piece for start in range(0, len(WRITTEN), size) for piece in reader.push(WRITTEN[start : start + size])]
    assert reader.end() == []
    assert "".join(piece for piece in pieces if isinstance(piece, str)) == "I look."
    assert tuple(piece for piece in pieces if isinstance(piece, ToolCall)) == CALLS


def test_text_is_passed_on_until_a_call_may_begin() -> None:
    reader = CallReader(TOOLS)
    assert reader.push("a < b \n") == ["a < b"]
    assert reader.push("<tool") == []
    assert reader.push("box>") == [" \n<toolbox>"]


@pytest.mark.parametrize(
    ("parameter", "written", "value"),
    [
        ("text", "7", "7"),
        ("text", "null", "null"),
        ("text", " a\n\nb ", " a\n\nb "),
        ("text", "", ""),
        ("text", "</tool_call>", "</tool_call>"),
        ("maybe", "null", None),
        ("maybe", "None", None),
        ("maybe", "7", "7"),
        ("either", "7", 7),
        ("either", "seven", "seven"),
        ("number", "7.50", 7.5),
        ("number", "many", "many"),
        ("unknown", '{"a": [1, true]}', {"a": [1, True]}),
        ("unknown", "True", True),
        ("unknown", '"quoted"', '"quoted"'),
        ("unknown", "NaN", "NaN"),
        ("unknown", "[" * 100_000, "[" * 100_000),
        ("unknown", "7" * 5_000, "7" * 5_000),
    ],
)
def test_a_value_has_the_type_of_its_parameter_or_else_is_json_where_it_can_be(
    parameter: str, written: str, value: object
) -> None:
    answer = (
        f"<tool_call>\n<function=find>\n<parameter={parameter}>\n{written}\n</parameter>\n</function>\n</tool_call>"
    )
    text, (call,) = split_calls(answer, TOOLS)
    assert text == ""
    function = to_openai(call)["function"]
    assert json.loads(function["arguments"]) == {parameter: value}
    assert type(json.loads(function["arguments"])[parameter]) is type(value)
    (read,) = read_calls([{"function": function}])
    again = spell_calls("", (make_call(read),))
    assert split_calls(again, TOOLS) == split_calls(answer, TOOLS) or written in ("7.50", "None", "True")


@pytest.mark.parametrize(
    "answer",
    [
        "<tool_call>\n<function=find>\n<parameter=text>\ncut",
        "<tool_call>\nfind\n</function>\n</tool_call>",
        "<tool_call>\n<function=find>\nno parameter\n</function>\n</tool_call>",
        "<tool_call>\n<function=find>\n" + "<parameter=a>\n1\n</parameter>\n" * 2 + "</function>\n</tool_call>",
        "<think>\nI could <tool_call>\n<function=find>\n</function>\n</tool_call>",
    ],
    ids=["cut", "no function", "stray text", "twice the same", "thinking"],
)
def test_what_only_resembles_a_call_stays_text_as_it_is(answer: str) -> None:
    assert split_calls(answer, TOOLS) == (answer, ())


def test_calls_come_after_the_thinking_and_after_a_call_that_is_none() -> None:
    thought = "<think>\n<tool_call>?\n</think>"
    assert split_calls(f"{thought}\n\n{WRITTEN}", TOOLS) == (f"{thought}\n\nI look.", CALLS)
    assert split_calls(f"<tool_call> is a word. {WRITTEN}\n\nDone.", TOOLS) == (
        "<tool_call> is a word. I look.\n\nDone.",
        CALLS,
    )
