"""Reads the calls of tools in an answer, whole or while it is being written (4.6 and later).

The format writes a text as it is and anything else as JSON, so an argument's type is looked up in the function's
parameters. What only resembles a call stays text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from minicpmv.processing.text.thinking import THINK, THOUGHT
from minicpmv.processing.text.tool_calls import ToolCall, to_json

__all__ = ["CallReader", "overlap", "split_calls"]

_OPENING = "<tool_call>"
_CLOSING = re.compile(r"</function>\s*</tool_call>")
_CALL = re.compile(r"\s*<function=([^<>\n]+)>\n(.*)", re.DOTALL)
_PARAMETER = re.compile(r"\s*<parameter=([^<>\n]+)>\n(.*?)\n</parameter>\n", re.DOTALL)
_WORDS = {"True": "true", "False": "false", "None": "null"}
"""As some templates write them; see ``ToolCall.in_python_words``."""


class CallReader:
    """Separates calls from text as pieces of an answer arrive; each is returned as soon as it is certain.

    Args:
        tools: Functions that the model was told of, as ``read_tools`` returns them.
        thinks: Whether the answer begins within its thinking, where nothing is a call.
    """

    def __init__(self, tools: Sequence[Mapping[str, Any]], *, thinks: bool = False) -> None:
        self._parameters = {tool["function"]["name"]: tool["function"].get("parameters") for tool in tools}
        self._thinks = thinks
        self._held = ""

    def push(self, text: str) -> list[str | ToolCall]:
        """Take the next piece, and return what is now certain; white space before a call is left out."""
        self._held += text
        return [piece for piece in self._release() if piece]

    def end(self) -> list[str | ToolCall]:
        """Return what was held back; an unfinished call is text."""
        rest, self._held = self._held, ""
        return [rest] if rest.strip() else []

    def _release(self) -> Iterator[str | ToolCall]:
        while True:
            mark = THOUGHT if self._thinks else _OPENING
            start = self._held.find(mark)
            sure = start if start >= 0 else len(self._held) - overlap(self._held, mark)
            text = self._held[:sure].rstrip()
            yield text
            self._held = self._held[len(text) :]
            if start < 0:
                return
            opening, _, rest = self._held.partition(mark)
            if self._thinks:
                self._thinks = False
                yield opening + mark
                self._held = rest
                continue
            closing = _CLOSING.search(rest)
            if closing is None:
                return
            call = self._read(rest[: closing.start()])
            yield call or opening + mark
            self._held = rest[closing.end() :] if call else rest

    def _read(self, text: str) -> ToolCall | None:
        """Read a call from its function on; None if it is none."""
        found = _CALL.fullmatch(text)
        if found is None:
            return None
        name, rest = found.groups()
        properties = _properties(self._parameters.get(name))
        arguments: dict[str, str] = {}
        while parameter := _PARAMETER.match(rest):
            key, value = parameter.groups()
            if key in arguments:
                return None
            arguments[key] = _to_value(value, properties.get(key))
            rest = rest[parameter.end() :]
        return None if rest.strip() else ToolCall(name, tuple(arguments.items()))


def split_calls(answer: str, tools: Sequence[Mapping[str, Any]]) -> tuple[str, tuple[ToolCall, ...]]:
    r"""Split an answer, with its thinking, into text and calls.

    >>> split_calls("I look.\n\n<tool_call>\n<function=find>\n</function>\n</tool_call>", [])
    ('I look.', (ToolCall(name='find', arguments=(), in_python_words=False),))
    """
    reader = CallReader(tools, thinks=answer.startswith(THINK))
    pieces = [*reader.push(answer), *reader.end()]
    text = "".join(piece for piece in pieces if isinstance(piece, str))
    return text, tuple(piece for piece in pieces if isinstance(piece, ToolCall))


def overlap(text: str, mark: str) -> int:
    """Count the characters at the end of a text that may begin a mark."""
    longest = min(len(text), len(mark) - 1)
    return next((length for length in range(longest, 0, -1) if text.endswith(mark[:length])), 0)


def _properties(parameters: object) -> dict[str, object]:
    """Return what a function says of each of its parameters; it may say anything."""
    properties = cast("dict[str, object]", parameters).get("properties") if isinstance(parameters, dict) else None
    return cast("dict[str, object]", properties) if isinstance(properties, dict) else {}


def _to_value(text: str, schema: object) -> str:
    """Return an argument as JSON."""
    kinds = set(_kinds(schema))
    word = _WORDS.get(text.strip(), text.strip())
    if "string" in kinds and not (word == "null" and "null" in kinds) and kinds <= {"string", "null"}:
        return to_json(text)
    try:
        value = json.loads(word, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return to_json(text)
    return to_json(text) if isinstance(value, str) else word


def _kinds(schema: object) -> Iterator[str]:
    """Yield the types that a parameter may have, as far as its schema names them."""
    if not isinstance(schema, dict):
        return
    fields = cast("dict[str, object]", schema)
    named = fields.get("type")
    yield from (kind for kind in (named if isinstance(named, list) else [named]) if isinstance(kind, str))
    for key in ("anyOf", "oneOf"):
        others = fields.get(key)
        for other in cast("list[object]", others) if isinstance(others, list) else []:
            named = cast("dict[str, object]", other).get("type") if isinstance(other, dict) else None
            # Whatever is not a plain type may be anything.
            yield named if isinstance(named, str) else "any"


def _refuse(constant: str) -> None:
    raise ValueError(constant)  # NaN and Infinity are not JSON
