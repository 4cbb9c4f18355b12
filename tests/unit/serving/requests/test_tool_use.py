"""What a request may say of tools, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from minicpmv.inference.loading import load_model
from minicpmv.processing.text.tool_calls import ToolCall
from minicpmv.processing.text.turns import Turn
from minicpmv.serving.errors import RequestError
from minicpmv.serving.requests.chat_request import read_request
from minicpmv.serving.requests.prompt import prepare
from minicpmv.serving.settings import ServerSettings
from tests.tiny import FIXTURES

TOOL = {"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}
ASKED = {"role": "user", "content": "Where?"}
FUNCTION = {"name": "find", "arguments": '{"what": "7"}'}
CALLED = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"id": name, "type": "function", "function": FUNCTION} for name in ("a", "b")],
}
BOTH = [{"role": "tool", "tool_call_id": name, "content": f"of {name}"} for name in ("b", "a")]


def read(messages: list[dict[str, Any]], **fields: Any) -> Any:
    return read_request(json.dumps({"model": "m", "messages": messages} | fields).encode())


def test_results_come_in_the_order_of_their_calls() -> None:
    call = ToolCall("find", (("what", '"7"'),))
    chat = read([ASKED, CALLED, *BOTH], tools=[TOOL], parallel_tool_calls=True)
    assert chat.turns == [
        Turn("user", ("Where?",)),
        Turn("assistant", ("",), calls=(call, call)),
        Turn("tool", ("of a",)),
        Turn("tool", ("of b",)),
    ]
    assert chat.tools == (TOOL,)
    assert read([ASKED], tools=[TOOL], tool_choice="none").tools == ()
    assert read([ASKED], tools=[]).tools == ()


@pytest.mark.parametrize(
    ("messages", "fields", "message"),
    [
        ([ASKED], {"tools": [{}]}, "tools[0].name: found nothing"),
        ([ASKED], {"tools": "find"}, "tools: found 'find', expected a list of functions"),
        ([ASKED], {"tools": [{"type": "web_search"}]}, "tools[0].type: found the type 'web_search'"),
        ([ASKED], {"tools": [{"name": "find", "strict": True}]}, "tools[0].function.strict: found true"),
        ([ASKED], {"tools": [{"name": "\ud800"}]}, "tools[0]: found half a character"),
        ([ASKED], {"tools": [TOOL], "parallel_tool_calls": False}, "parallel_tool_calls: found false"),
        ([ASKED], {"tools": [TOOL], "tool_choice": "required"}, "tool_choice: found 'required'"),
        ([ASKED], {"tools": [TOOL], "tool_choice": {"type": "function"}}, "tool_choice: found {'type': 'function'}"),
        ([ASKED, CALLED], {}, "messages[1].tool_calls: found no result of 'a'"),
        ([ASKED, CALLED, BOTH[0], ASKED], {}, "messages[1].tool_calls: found no result of 'a'"),
        ([ASKED, CALLED, BOTH[0], BOTH[0]], {}, "messages[3].tool_call_id: found 'b' again, expected 'a' or 'b'"),
        ([ASKED, CALLED, BOTH[0] | {"tool_call_id": "c"}], {}, "messages[2].tool_call_id: found 'c'"),
        ([ASKED, CALLED, {"role": "tool", "content": "x"}], {}, "messages[2].tool_call_id: found None"),
        ([ASKED, CALLED | {"tool_calls": 3}], {}, "messages[1].tool_calls: found 3"),
        ([ASKED, CALLED | {"tool_calls": [{"function": FUNCTION}]}], {}, "messages[1].tool_calls[0].id: found None"),
        ([ASKED | {"tool_calls": []}], {}, "messages[0]: found 'tool_calls'"),
        ([ASKED, BOTH[0] | {"name": "find"}], {}, "messages[1]: found 'name'"),
    ],
)
def test_what_is_no_tool_no_call_or_no_result_is_named(
    messages: list[dict[str, Any]], fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(RequestError) as caught:
        read(messages, **fields)
    assert str(caught.value).startswith(message)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("release", "messages", "fields", "param", "message"),
    [
        ("v2_6", [ASKED], {"tools": [TOOL]}, "tools", "tools: found tools, expected none: openbmb/MiniCPM-V-2_6 was"),
        ("v2_6", [ASKED, CALLED, *BOTH], {}, "messages", "messages[1]: found calls of tools, expected none"),
        ("v4_6", [ASKED], {"tools": [TOOL]}, "tools", "tools: found tools, expected none: the chat template of"),
        ("v4_6", [ASKED, BOTH[0]], {}, "messages", "messages[1].role: found a result without a call before it"),
    ],
)
def test_a_release_or_template_without_tools_is_named(
    release: str, messages: list[dict[str, Any]], fields: dict[str, Any], param: str, message: str
) -> None:
    chat = read(messages, **fields)
    with pytest.raises(RequestError) as caught:
        prepare(chat, load_model(str(FIXTURES / release), device="cpu"), ServerSettings())
    assert str(caught.value).startswith(message)
    assert (caught.value.status, caught.value.param) == (400, param)
