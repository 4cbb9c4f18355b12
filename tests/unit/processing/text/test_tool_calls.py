"""Tools and calls as they are read, and calls as they are written."""

from __future__ import annotations

from typing import Any

import pytest

from minicpmv.processing.text.tool_calls import ToolFault, make_call, read_calls, read_tools, spell_calls

FIND = {"name": "find", "arguments": {"what": "a cat", "rows": [1, "é"], "all": True, "by": {"x": None}, "near": 0.5}}
WRITTEN = """I look.

<tool_call>
<function=find>
<parameter=what>
a cat
</parameter>
<parameter=rows>
[1, "é"]
</parameter>
<parameter=all>
true
</parameter>
<parameter=by>
{"x": null}
</parameter>
<parameter=near>
0.5
</parameter>
</function>
</tool_call>
<tool_call>
<function=stop>
</function>
</tool_call>"""


def test_a_text_is_written_as_it_is_and_all_else_as_json() -> None:
    calls = tuple(make_call(call) for call in read_calls([FIND, {"name": "stop"}]))
    assert spell_calls("I look. \n", calls) == WRITTEN
    assert spell_calls("", calls[1:]) == "<tool_call>\n<function=stop>\n</function>\n</tool_call>"
    assert spell_calls("No call. ", ()) == "No call. "


@pytest.mark.parametrize(
    "value",
    [
        [{"type": "function", "id": "1", "function": {"name": "find", "arguments": '{"what": "a"}'}}],
        {"function": {"name": "find", "arguments": {"what": "a"}}},
        '{"name": "find", "arguments": {"what": "a"}}',
        '[{"name": "find", "arguments": "{\\"what\\": \\"a\\"}"}]',
    ],
)
def test_calls_are_read_in_every_wrapping(value: Any) -> None:
    assert read_calls(value) == [{"name": "find", "arguments": {"what": "a"}}]


@pytest.mark.parametrize("arguments", [None, "", {}, "{}"])
def test_a_call_may_have_no_arguments(arguments: Any) -> None:
    assert read_calls([{"name": "find", "arguments": arguments}]) == [{"name": "find", "arguments": {}}]


@pytest.mark.parametrize(
    ("value", "place", "found"),
    [
        ("find(a)", "", "'find(a)' (Expecting value)"),
        ([1], "[0]", "1"),
        (None, "", "None"),
        ([FIND, {}], "[1].name", "nothing"),
        ([{"function": {"name": "a>b"}}], "[0].function.name", "'a>b'"),
        ([{"function": "find"}], "[0].function", "'find'"),
        ([{"type": "custom", "name": "find"}], "[0].type", "the type 'custom'"),
        ([{"name": "find", "arguments": [1]}], "[0].arguments", "[1]"),
        ([{"name": "find", "arguments": "{what"}], "[0].arguments", "'{what' (Expecting property name"),
        ([{"name": "find", "arguments": {"a\nb": 1}}], "[0].arguments", r"'a\nb'"),
    ],
)
def test_what_is_no_call_says_where_and_what(value: Any, place: str, found: str) -> None:
    with pytest.raises(ToolFault) as caught:
        read_calls(value)
    assert caught.value.place == place
    assert caught.value.found.startswith(found)


def test_functions_get_their_wrapping_and_keep_everything_else() -> None:
    function = {"name": "find", "description": "Finds.", "parameters": {"type": "object", "strict": True}}
    wrapped = {"function": function, "type": "function", "more": 1}
    assert read_tools([function, wrapped]) == [{"type": "function", "function": function}, wrapped]
    assert read_tools('[{"name": "find"}]') == [{"type": "function", "function": {"name": "find"}}]
    with pytest.raises(ToolFault, match=r"\[0\].name: found nothing"):
        read_tools([{"description": "Finds."}])
