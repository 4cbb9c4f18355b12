"""Reads what a request says of tools: functions, calls of earlier answers, results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from minicpmv.processing.text.tool_calls import ToolCall, ToolFault, make_call, read_calls, read_tools, to_json
from minicpmv.processing.text.turns import Turn
from minicpmv.serving.errors import refused

__all__ = ["ReadMessage", "check_encodable", "order_results", "read_announced", "read_called"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadMessage:
    """One message, with the names by which OpenAI's form joins calls and results."""

    turn: Turn
    where: str
    call_ids: tuple[str, ...] = ()
    result_of: str | None = None


def check_encodable(text: str, where: str) -> str:
    """Return a text that UTF-8 can encode: JSON may hold half a surrogate pair.

    Raises:
        RequestError: It is none.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(text[error.start]):04x}"
        raise refused(where, f"half a character ({half})", "whole characters", "encode the text as UTF-8") from error
    return text


def read_announced(fields: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    """Return the functions that the model is told of: none with ``tool_choice`` ``none``.

    Raises:
        RequestError: They are no functions, or a promise of theirs cannot be kept.
    """
    given = fields.get("tools")
    if given in (None, []):
        return ()
    if not isinstance(given, list):
        raise refused("tools", f"{given!r:.60}", "a list of functions", "write [{'type': 'function', ...}]")
    try:
        tools = read_tools(cast("list[object]", given))
    except ToolFault as fault:
        raise refused(f"tools{fault.place}", fault.found, fault.expected, fault.fix) from fault
    for number, tool in enumerate(tools):
        check_encodable(to_json(tool), f"tools[{number}]")
        if tool["function"].get("strict"):
            where = f"tools[{number}].function.strict"
            raise refused(where, "true", "false: nothing forces the model to keep to a schema", "leave it out")
    if fields.get("parallel_tool_calls") is False:
        found, expected = "false", "true: the model decides how many calls it makes"
        raise refused("parallel_tool_calls", found, expected, "leave it out, and use the first call")
    return () if fields.get("tool_choice") == "none" else tuple(tools)


def read_called(value: object, where: str) -> tuple[tuple[ToolCall, ...], tuple[str, ...]]:
    """Return the calls of an answer, and the name of each.

    Raises:
        RequestError: They are no calls, or two have one name.
    """
    if not isinstance(value, list):
        raise refused(where, f"{value!r:.60}", "a list of calls", "send what the answer had")
    try:
        calls = tuple(make_call(call) for call in read_calls(cast("list[object]", value)))
    except ToolFault as fault:
        raise refused(f"{where}{fault.place}", fault.found, fault.expected, fault.fix) from fault
    names: list[str] = []
    for number, (call, given) in enumerate(zip(calls, cast("list[dict[str, object]]", value), strict=True)):
        place = f"{where}[{number}]"
        check_encodable(call.name + "".join(name + value for name, value in call.arguments), place)
        name = given.get("id")
        if not isinstance(name, str) or name in names:
            raise refused(f"{place}.id", f"{name!r:.60}", "a name of its own", "send the id that the answer had")
        names.append(name)
    return calls, tuple(names)


def order_results(messages: Sequence[ReadMessage]) -> list[Turn]:
    """Return the turns, results in the order of their calls, which is all that the model's format tells them by.

    Raises:
        RequestError: Calls and results do not belong together.
    """
    turns: list[Turn] = []
    place = 0
    while place < len(messages):
        message = messages[place]
        turns.append(message.turn)
        place += 1
        if not message.call_ids:
            continue
        results: dict[str, Turn] = {}
        while place < len(messages) and messages[place].turn.role == "tool":
            result = messages[place]
            name = result.result_of
            if name not in message.call_ids or name in results:
                where, known = f"{result.where}.tool_call_id", " or ".join(map(repr, message.call_ids))
                found = f"{name!r:.60} again" if name in results else f"{name!r:.60}"
                raise refused(where, found, f"{known:.300}, once each", "send the id of the call that it answers")
            results[name] = result.turn
            place += 1
        if missing := [name for name in message.call_ids if name not in results]:
            found = f"no result of {missing[0]!r:.60}"
            raise refused(f"{message.where}.tool_calls", found, "a message of role 'tool' for each call", "add it")
        turns += [results[name] for name in message.call_ids]
    return turns
