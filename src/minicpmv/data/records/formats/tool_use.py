"""Reads what records say of tools: OpenAI's keys, and ms-swift's and LLaMA-Factory's roles for calls and results.

A record in our form has ``tools``, its answers ``tool_calls``, and its results are messages of the role ``tool``.
"""

from __future__ import annotations

from typing import cast

from minicpmv.data.records.record import RawRecord
from minicpmv.errors import Problem
from minicpmv.processing.text.tool_calls import ToolFault, read_calls, read_tools

__all__ = ["has_foreign_role", "join_call", "read_called", "read_listed", "read_role"]

_RESULT_ROLES = ("tool", "observation", "tool_response", "function")
_CALL_ROLES = ("function_call", "tool_call")
"""Roles of messages that are nothing but calls, as JSON."""
_CALL_KEYS = ("tool_calls", "function_call")
"""Keys of an answer that hold its calls; the second is OpenAI's first form, of one call."""


def has_foreign_role(role: object) -> bool:
    """Return whether a role is another tool's for a call or a result."""
    return role in _CALL_ROLES or (role in _RESULT_ROLES and role != "tool")


def read_role(role: object) -> tuple[object, bool]:
    """Return our role for a message's, and whether the message is nothing but calls."""
    if role in _CALL_ROLES:
        return "assistant", True
    return ("tool" if role in _RESULT_ROLES else role), False


def read_listed(record: RawRecord, value: object) -> tuple[object, list[Problem]]:
    """Read the functions that a record announces."""
    try:
        return read_tools(value), []
    except ToolFault as fault:
        return None, [_problem(record, "tools", fault)]


def read_called(
    record: RawRecord, name: str, given: dict[str, object], content: object, *, is_call: bool, content_key: str
) -> tuple[dict[str, object], list[Problem]]:
    """Take the calls of an answer out of its keys, or out of its content.

    Args:
        record: The record, to name places.
        name: The message.
        given: Its keys; those that hold calls are removed.
        content: Its content.
        is_call: Whether its role says that the content is calls.
        content_key: Key of the content, to name it.

    Returns:
        ``content`` and ``tool_calls``, as our form has them.
    """
    keys = [key for key in _CALL_KEYS if given.get(key) not in (None, [], "")]
    values = {key: given.pop(key) for key in keys}
    for key in _CALL_KEYS:
        given.pop(key, None)
    if is_call:
        values, content = {content_key: content}, ""
    elif values and content is None:
        content = ""
    calls: list[object] = []
    for key, value in values.items():
        try:
            calls += read_calls(value)
        except ToolFault as fault:
            return {"content": ""}, [_problem(record, f"{name}.{key}", fault)]
    made: dict[str, object] = {"content": content}
    return (made | {"tool_calls": calls} if calls else made), []


def join_call(talk: list[object], made: dict[str, object]) -> bool:
    """Add a message that is nothing but calls to the answer before it, if there is one; return whether it was."""
    before = talk[-1] if talk else None
    if not isinstance(before, dict) or cast("dict[str, object]", before).get("role") != "assistant":
        return False
    fields = cast("dict[str, object]", before)
    calls = cast("list[object]", fields.get("tool_calls", []))
    talk[-1] = {**fields, "tool_calls": [*calls, *cast("list[object]", made.get("tool_calls", []))]}
    return True


def _problem(record: RawRecord, place: str, fault: ToolFault) -> Problem:
    return Problem("D166", record.where(f"{place}{fault.place}"), fault.found, fault.expected, fault.fix)
