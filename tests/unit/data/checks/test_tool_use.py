"""Tools in records: every tool's way to write them makes the same turns, and what cannot be trained is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from minicpmv.data.records.record import Record
from minicpmv.data.sources.conversion import convert
from minicpmv.data.sources.loading import load_records
from minicpmv.errors import DataError
from minicpmv.processing.text.tool_calls import ToolCall
from minicpmv.processing.text.turns import Turn
from minicpmv.releases.table import VERSIONS
from tests.tiny import write_data

FUNCTION = {"name": "find", "parameters": {"type": "object", "properties": {"what": {"type": "string"}}}}
TOOL = {"type": "function", "function": FUNCTION}
CALL = {"name": "find", "arguments": {"what": "a cat"}}
WRAPPED = {"id": "1", "type": "function", "function": {"name": "find", "arguments": '{"what": "a cat"}'}}
USER, FOUND = {"role": "user", "content": "Where?"}, {"role": "assistant", "content": "Here."}
CALLED, RESULT = {"role": "assistant", "content": None, "tool_calls": [WRAPPED]}, {"role": "tool", "content": "[1]"}
RECORD = {"tools": [TOOL], "messages": [USER, CALLED, {**RESULT, "tool_call_id": "1", "name": "find"}, FOUND]}
EXPECTED = (
    Turn("system", (), tools=(json.dumps(TOOL),)),
    Turn("user", ("Where?",)),
    Turn("assistant", ("",), calls=(ToolCall("find", (("what", '"a cat"'),)),)),
    Turn("tool", ("[1]",)),
    Turn("assistant", ("Here.",)),
)


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def load(record: dict[str, Any], *, version: str | None = None) -> Record:
    (loaded,) = load_records(write_data(Path("train.json"), [record]), version=VERSIONS[version] if version else None)
    return loaded


def told(record: dict[str, Any], *, version: str | None = None) -> list[tuple[str, str]]:
    with pytest.raises(DataError) as caught:
        load(record, version=version)
    return [(problem.code, problem.where.partition("record 0 ")[2]) for problem in caught.value.problems]


SHAREGPT = [
    {"from": "human", "value": "Where?"},
    {"from": "function_call", "value": json.dumps(CALL)},
    {"from": "observation", "value": "[1]"},
    {"from": "gpt", "value": "Here."},
]
SWIFT = [
    USER,
    {"role": "tool_call", "content": json.dumps(CALL)},
    {"role": "tool_response", "content": "[1]"},
    FOUND,
]


@pytest.mark.parametrize(
    "record",
    [
        RECORD,
        {"tools": [FUNCTION], "conversations": [USER, {**CALLED, "content": "", "tool_calls": [CALL]}, RESULT, FOUND]},
        {"tools": json.dumps([FUNCTION]), "conversations": SHAREGPT},
        {"tools": json.dumps([TOOL]), "messages": SWIFT},
        {"tools": [TOOL], "messages": [USER, {"role": "assistant", "tool_calls": [WRAPPED]}, RESULT, FOUND]},
        {"tools": [TOOL], "messages": [
            USER, {"role": "assistant", "function_call": CALL}, {**RESULT, "role": "function"}, FOUND]},
    ],
    ids=["OpenAI", "ours", "LLaMA-Factory", "ms-swift", "no content", "OpenAI's first"],
)  # fmt: skip
def test_every_way_to_write_tools_makes_the_same_turns(record: dict[str, Any]) -> None:
    assert load(record).turns == EXPECTED
    assert load(record, version="4.6").turns == EXPECTED


def test_calls_join_the_answer_before_them_and_results_keep_their_order() -> None:
    talk = [USER, {"role": "assistant", "content": "I look."}, SWIFT[1], SWIFT[1], RESULT, RESULT, FOUND]
    turns = load({"system": "Be brief.", "tools": [TOOL], "messages": talk}).turns
    assert [turn.role for turn in turns] == ["system", "user", "assistant", "tool", "tool", "assistant"]
    assert (turns[0].text, len(turns[0].tools)) == ("Be brief.", 1)
    assert (turns[2].text, [call.name for call in turns[2].calls]) == ("I look.", ["find", "find"])
    talk[-1] = {"role": "critic", "content": "?"}
    assert told({"messages": talk}) == [("D122", "messages[6].role")]


def test_a_call_keeps_weight_and_thinking_and_may_come_last() -> None:
    called = {**CALLED, "reasoning_content": "Look.", "weight": 0.5}
    turn = load({"tools": [TOOL], "messages": [USER, called]}, version="4.6").turns[-1]
    assert (turn.text, turn.weight, len(turn.calls)) == ("<think>\nLook.\n</think>\n\n", 0.5, 1)


@pytest.mark.parametrize("tools", [None, [], "", "[]", "null"])
def test_no_tools_are_none(tools: Any) -> None:
    assert [turn.role for turn in load({"tools": tools, "messages": [USER, FOUND]}, version="2.6").turns] == [
        "user",
        "assistant",
    ]


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({**RECORD, "tools": "find(what)"}, ("D166", "tools")),
        ({**RECORD, "tools": [{"type": "function"}]}, ("D166", "tools[0].name")),
        ({"messages": [USER, {**CALLED, "tool_calls": [{"name": 3}]}]}, ("D166", "messages[1].tool_calls[0].name")),
        ({"conversations": [SHAREGPT[0], {"from": "function_call", "value": "find"}]},
         ("D166", "conversations[1].value")),
        ({"messages": [USER, RESULT, FOUND]}, ("D123", "messages[1].role")),
        ({"messages": [USER, FOUND, RESULT, FOUND]}, ("D123", "messages[2].role")),
        ({"messages": [USER, CALLED, RESULT, USER, FOUND]}, ("D123", "messages[3].role")),
        ({"messages": [USER, CALLED, RESULT]}, ("D123", "messages[2].role")),
        ({"messages": [{**USER, "tool_calls": [CALL]}, FOUND]}, ("D160", "messages[0].tool_calls")),
        ({"messages": [USER, FOUND], "functions": [FUNCTION]}, ("D160", "functions")),
    ],
)  # fmt: skip
def test_what_cannot_be_read_says_where(record: dict[str, Any], expected: tuple[str, str]) -> None:
    assert told(record) == [expected]


@pytest.mark.parametrize("version", ["2.0", "2.5", "2.6", "4.0", "4.5"])
def test_releases_without_tools_refuse_them_once_for_each_record(version: str) -> None:
    assert told(RECORD, version=version) == [("D167", "tools")]
    without = {"messages": RECORD["messages"]}
    assert told(without, version=version) == [("D167", "messages[1].tool_calls")]


def test_what_is_converted_is_read_the_same() -> None:
    path = write_data(Path("train.json"), [{"tools": json.dumps([FUNCTION]), "conversations": SHAREGPT}])
    convert([str(path)], "out.jsonl")
    (record,) = load_records("out.jsonl")
    assert record.turns == EXPECTED


def test_a_key_that_a_call_has_twice_is_named() -> None:
    text = json.dumps([RECORD]).replace('"type": "object"', '"type": "object", "type": "x"')
    Path("train.json").write_text(text)
    with pytest.raises(DataError, match=r"tools\[0\]\.function\.parameters: \[D107\] found the key 'type' more"):
        load_records("train.json")
