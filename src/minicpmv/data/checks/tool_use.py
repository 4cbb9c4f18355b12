"""Judges where a record calls tools, and whether the model to be trained knows any."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from minicpmv.data.records.record import RawRecord
from minicpmv.errors import Problem
from minicpmv.processing.text.chat import roles_of
from minicpmv.releases.table import Version

__all__ = ["check_tools_of_version", "may_follow"]


def check_tools_of_version(
    record: RawRecord, fields: Mapping[str, Any], messages: Sequence[Mapping[str, Any]], version: Version
) -> Iterator[Problem]:
    """Yield a problem for tools that the release was trained without, once for each record."""
    if "tool" in roles_of(version):
        return
    places = ["tools"] if fields.get("tools") else []
    for number, message in enumerate(messages):
        if message["role"] == "tool":
            places.append(f"conversations[{number}].role")
        elif message.get("tool_calls"):
            places.append(f"conversations[{number}].tool_calls")
    if places:
        found, expected = "tools, calls of tools or their results", f"none: {version.model} was trained without"
        fix = "write call and result into the texts, leave the record out, or take a release with tools (4.6 and later)"
        yield Problem("D167", record.where(places[0]), found, expected, fix)


def may_follow(message: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the roles that may follow a message, the usual one first."""
    if message["role"] == "tool":
        return ("assistant", "tool")
    if message.get("tool_calls"):
        return ("user", "tool")
    return ("user",) if message["role"] == "assistant" else ("assistant",)
