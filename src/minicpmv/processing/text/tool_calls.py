"""Reads tools and their calls in OpenAI's form, and writes a call as the format of Qwen3-Coder has it (4.6 and later).

Where calls stand in a turn is for ``dialects`` to say, and how tools are announced for ``released_tools``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from minicpmv.releases.json_bounds import quote

__all__ = [
    "ToolCall",
    "ToolFault",
    "make_call",
    "read_calls",
    "read_tools",
    "spell_calls",
    "to_json",
    "to_openai",
    "write_calls",
]

_PYTHON_WORDS = {"true": "True", "false": "False", "null": "None"}
_TOOL = {"type": "function", "function": {"name": "...", "description": "...", "parameters": {"type": "object"}}}
_CALL = {"type": "function", "function": {"name": "...", "arguments": {}}}


class ToolFault(ValueError):
    """A tool or a call that is not what it should be.

    Args:
        place: Where in the value, such as ``[0].function.name``; empty for the whole.
        found: What is there.
        expected: What should be.
        fix: How to mend it.
    """

    def __init__(self, place: str, found: str, expected: str, fix: str) -> None:
        super().__init__(f"{place}: found {found}, expected {expected}\n  fix: {fix}")
        self.place, self.found, self.expected, self.fix = place, found, expected, fix


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call of a tool in an answer."""

    name: str
    arguments: tuple[tuple[str, str], ...] = ()
    """Name and value of each, the value as JSON: a text is in quotes."""
    in_python_words: bool = False
    """Whether ``true``, ``false`` and ``null`` are written as Python spells them; some templates do."""

    def __str__(self) -> str:
        """Spell it for a person.

        >>> print(ToolCall("find", (("word", '"a cat"'), ("rows", "[1, 2]"))))
        find(word="a cat", rows=[1, 2])
        """
        return f"{self.name}({', '.join(f'{name}={value}' for name, value in self.arguments)})"


def to_json(value: object) -> str:
    """Write a value as the released templates do."""
    return json.dumps(value, ensure_ascii=False)


def make_call(call: Mapping[str, Any]) -> ToolCall:
    """Make a call of what ``read_calls`` returned."""
    return ToolCall(call["name"], tuple((name, to_json(value)) for name, value in call["arguments"].items()))


def to_openai(call: ToolCall) -> dict[str, Any]:
    """Return a call in OpenAI's form, its arguments as JSON text."""
    arguments = ", ".join(f"{to_json(name)}: {value}" for name, value in call.arguments)
    return {"type": "function", "function": {"name": call.name, "arguments": f"{{{arguments}}}"}}


def write_calls(calls: tuple[ToolCall, ...], *, behind_text: bool) -> Iterator[tuple[str, bool]]:
    """Yield stretches of text, and whether each is the format's, not the data's.

    Args:
        calls: Calls of one answer.
        behind_text: Whether the answer has a text before them.
    """
    opening = "\n\n" if behind_text else ""
    for call in calls:
        yield f"{opening}<tool_call>\n<function=", True
        yield call.name, False
        yield ">\n", True
        for name, value in call.arguments:
            yield "<parameter=", True
            yield name, False
            yield ">\n", True
            yield _write_value(value, call), False
            yield "\n</parameter>\n", True
        yield "</function>\n</tool_call>", True
        opening = "\n"


def spell_calls(text: str, calls: tuple[ToolCall, ...]) -> str:
    """Return an answer's text with the calls behind it.

    >>> print(spell_calls("", (ToolCall("add", (("a", "1"),)),)))
    <tool_call>
    <function=add>
    <parameter=a>
    1
    </parameter>
    </function>
    </tool_call>
    """
    if not calls:
        return text
    text = text.rstrip()
    return text + "".join(piece for piece, _ in write_calls(calls, behind_text=bool(text)))


def _write_value(value: str, call: ToolCall) -> str:
    """Write an argument: a text as it is, anything else as JSON."""
    if value.startswith('"'):
        return json.loads(value)
    return _PYTHON_WORDS.get(value, value) if call.in_python_words else value


def read_calls(value: object) -> list[dict[str, Any]]:
    """Read calls: a list of them, one, or either as JSON text.

    Returns:
        For each its ``name`` and its ``arguments`` as an object.

    Raises:
        ToolFault: One is none.
    """
    calls: list[dict[str, Any]] = []
    for place, call in _entries(value, "calls", _CALL):
        function, within = _unwrap(call, place, _CALL)
        name = _read_name(function.get("name"), f"{within}.name")
        given = function.get("arguments")
        where = f"{within}.arguments"
        given = _parse(given, where, "an object, or its JSON") if isinstance(given, str) and given.strip() else given
        if not isinstance(given, dict):
            if given not in (None, ""):
                raise ToolFault(where, quote(given), "an object, or its JSON", 'write {"name": value, ...}')
            given = {}
        arguments = cast("dict[str, object]", given)
        for key in arguments:
            _read_name(key, where)
        calls.append({"name": name, "arguments": arguments})
    return calls


def read_tools(value: object) -> list[dict[str, Any]]:
    """Read the functions that a model is told of: a list of them, or its JSON text.

    Returns:
        Each as written; one that is not wrapped as OpenAI wants it (``type`` and ``function``) is.

    Raises:
        ToolFault: One is none.
    """
    tools: list[dict[str, Any]] = []
    for place, tool in _entries(value, "functions", _TOOL):
        function, within = _unwrap(tool, place, _TOOL)
        _read_name(function.get("name"), f"{within}.name")
        tools.append({"type": "function", "function": function} if function is tool else tool)
    return tools


def _entries(value: object, what: str, example: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    parsed = _parse(value, "", f"a list of {what}, or its JSON") if isinstance(value, str) else value
    entries = cast("list[object]", parsed) if isinstance(parsed, list) else [parsed]
    for number, entry in enumerate(entries):
        place = f"[{number}]" if isinstance(parsed, list) else ""
        if not isinstance(entry, dict):
            raise ToolFault(place, quote(entry), f"a list of {what}", f"write [{to_json(example)}]")
        yield place, cast("dict[str, Any]", entry)


def _unwrap(entry: dict[str, Any], place: str, example: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Return the function in OpenAI's wrapping, or the entry if it has none; and its place."""
    if entry.get("type", "function") != "function":
        found, fix = f"the type {quote(entry['type'])}", "leave it out: only functions are written"
        raise ToolFault(f"{place}.type", found, "'function'", fix)
    if "function" not in entry:
        return entry, place
    if not isinstance(entry["function"], dict):
        found, fix = quote(entry["function"]), f"write {to_json(example)}"
        raise ToolFault(f"{place}.function", found, "an object", fix)
    return cast("dict[str, Any]", entry["function"]), f"{place}.function"


def _read_name(name: object, place: str) -> str:
    if not isinstance(name, str) or not name.strip() or any(sign in name for sign in "<>\n"):
        found = "nothing" if name is None else quote(name)
        raise ToolFault(place, found, "a name without line breaks, < and >", "write the name")
    return name


def _parse(text: str, place: str, expected: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply"
        raise ToolFault(place, f"{quote(text)} ({reason})", expected, "write it as JSON") from error
