"""Reads a list of messages in any style into ours: role and content, and weight and thinking of answers.

Other keys of a message are not read, and are reported as such. Whether roles and texts are valid is judged
elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

from minicpmv.data.records.formats.containers.json_list import mark_like
from minicpmv.data.records.formats.parts import Shown, read_parts
from minicpmv.data.records.formats.tool_use import has_foreign_role, join_call, read_called, read_role
from minicpmv.data.records.record import RawRecord, Unread, quote
from minicpmv.errors import Problem

__all__ = [
    "THINKING_KEYS",
    "WEIGHT_KEYS",
    "Messages",
    "is_plain_message",
    "is_sharegpt",
    "read_messages",
    "read_plain_sharegpt",
]

_STYLE_KEYS = ("role", "content", "from", "value")
_SHAREGPT_ROLES = {"human": "user", "gpt": "assistant"}
"""Values of ``from``; user, assistant and system are accepted as well."""
_OF_RESULTS = ("tool_call_id", "name")
"""Keys of a result that say of which call it is; results are written in the order of the calls."""
_SWITCHES = ("loss", "train", "trainable", "training")
"""Keys that state whether an answer is trained: ms-swift's, axolotl's."""
WEIGHT_KEYS = ("weight", "loss_weight", *_SWITCHES)
"""Keys of an answer that state its weight: ours and OpenAI's, LLaMA-Factory's, and the switches."""
_SMALLEST_WEIGHT, _LARGEST_WEIGHT = 1e-6, 1_000_000
"""Limits of a weight other than 0: below, float32 rounds it to 0; above, it overflows and ends the run."""
THINKING_KEYS = ("reasoning_content", "reasoning", "thinking")
"""Keys of an answer that hold the thinking before it; the first is ours."""


@dataclass(slots=True)
class Messages:
    """Holds what was read from a record's messages."""

    talk: list[object] = field(default_factory=list)
    """Messages in our form; one that is not an object, or lacks role or content, is kept as is."""
    images: Shown = field(default_factory=Shown)
    films: Shown = field(default_factory=Shown)
    """Films that are parts of messages, of all messages in order."""
    texts: list[str] = field(default_factory=list)
    """Field of each message's text."""
    unread: list[Unread] = field(default_factory=list)
    faults: list[Problem] = field(default_factory=list)


def is_plain_message(message: object) -> bool:
    """Return whether a message is already in our form, with no other keys."""
    return (
        type(message) is dict
        and len(message) == 2
        and "role" in message
        and isinstance(message.get("content"), str)
        and not has_foreign_role(message["role"])
    )


def read_plain_sharegpt(messages: list[object]) -> list[object] | None:
    """Read messages that have only ``from`` and ``value``; return None if there are others."""
    talk: list[object] = []
    for message in messages:
        if type(message) is not dict or len(message) != 2:
            return None
        given = cast("dict[str, object]", message)
        role, text = given.get("from"), given.get("value")
        if not isinstance(role, str) or not isinstance(text, str) or has_foreign_role(role):
            return None
        talk.append({"role": _SHAREGPT_ROLES.get(role, role), "content": text})
    return talk


def is_sharegpt(talk: object) -> bool:
    """Return whether messages have ``from`` and ``value``, and none has our keys."""
    if not isinstance(talk, list):
        return False
    messages = [message for message in cast("list[object]", talk) if isinstance(message, dict)]
    return any("from" in message and "value" in message for message in messages) and not any(
        "role" in message or "content" in message for message in messages
    )


def read_messages(
    messages: list[object], record: RawRecord, place: str, *, role_key: str, content_key: str
) -> Messages:
    """Read the messages of a record.

    Args:
        messages: Messages as written.
        record: The record, to name places.
        place: The field that holds them: ``conversations`` or ``messages``.
        role_key: Key of the role.
        content_key: Key of the text.
    """
    read = Messages()
    is_ours = role_key == "role"
    for number, message in enumerate(messages):
        if message is None:
            continue
        read.texts.append(f"{place}[{number}].{content_key}")
        if not isinstance(message, dict) or (is_ours and is_plain_message(cast("object", message))):
            read.talk.append(message)
            continue
        given = cast("dict[str, object]", message)
        if any(given.get(key) for key in ("tool_calls", "function_call")):
            given: dict[str, object] = {content_key: None, **given}
        lacking = [key for key in (role_key, content_key) if key not in given]
        if is_ours and lacking:  # the check of messages looks for the key that was meant
            read.talk.append(given)
            continue
        name = f"{place}[{number}]"
        for key in lacking:
            found = f"the keys {', '.join(map(repr, given))}" if given else "no key at all"
            read.faults.append(Problem("D121", record.where(name), found, f"the key {key!r}", f"add {key!r}"))
        role = given.get(role_key)
        role = _SHAREGPT_ROLES.get(role, role) if isinstance(role, str) and not is_ours else role
        role, is_call = read_role(role)
        rest: dict[str, object] = given | dict.fromkeys(_STYLE_KEYS)
        made = {"role": role, "content": given.get(content_key)}
        if role == "assistant":
            called, faults = read_called(record, name, rest, made["content"], is_call=is_call, content_key=content_key)
            made |= called
            read.faults += faults
        elif role == "tool":
            rest |= dict.fromkeys(_OF_RESULTS)
        if len(given) > 2:
            if is_ours:
                _check_other_style(read, record, name, given)
            made |= _read_rest(read, record, name, rest, role)
        if isinstance(made["content"], list):
            _read_content(read, record, f"{name}.{content_key}", made)
        if is_call and join_call(read.talk, made):
            read.texts.pop()
            continue
        read.talk.append(mark_like(given, made))
    _check_indices(read, record, read.images, "image")
    _check_indices(read, record, read.films, "video")
    return read


def _check_other_style(read: Messages, record: RawRecord, name: str, given: Mapping[str, object]) -> None:
    """Report a message in our form with different values in the keys of the other style."""
    role, text = given.get("from"), given.get("value")
    for ours, theirs, said in (
        ("role", "from", _SHAREGPT_ROLES.get(role, role) if isinstance(role, str) else role),
        ("content", "value", text),
    ):
        if said is not None and said not in ("", given[ours]):
            found = f"{ours!r}: {quote(given[ours])} and {theirs!r}: {quote(given[theirs])} in one message"
            read.faults.append(Problem("D117", record.where(name), found, "one of them", "remove the one not meant"))


def _check_indices(read: Messages, record: RawRecord, shown: Shown, kind: str) -> None:
    """Report a part whose index is not that of the next image, or film, of the record."""
    for number, (name, index) in enumerate(zip(shown.bare, shown.indices, strict=True)):
        if index is not None and index != number:
            found = f"the index {quote(index)} of {kind} part number {number}"
            expected = f"{number}: {kind} parts show the {kind}s of the record in order"
            fix = f"list the {kind}s in the order of the parts, and number them from 0 or leave 'index' out"
            read.faults.append(Problem("D118", record.where(name), found, expected, fix))
            return


def _read_content(read: Messages, record: RawRecord, place: str, made: dict[str, object]) -> None:
    content = cast("list[object]", made["content"])
    parts = read_parts(content, record=record, place=place, images_allowed=made["role"] == "user")
    made["content"] = parts.text
    read.faults += parts.problems
    read.images.extend(parts.images)
    read.films.extend(parts.films)
    read.unread += parts.unread


def _read_rest(
    read: Messages, record: RawRecord, name: str, rest: Mapping[str, object], role: object
) -> dict[str, object]:
    """Return weight and thinking of a message; report unread keys and contradictions.

    Args:
        read: Receives the reports.
        record: The record, to name places.
        name: The message.
        rest: Its keys other than role and content; null counts as absent.
        role: Role of the message.
    """
    given = {key: value for key, value in rest.items() if value is not None}
    made: dict[str, object] = {}
    weights = {key: given.pop(key) for key in WEIGHT_KEYS if key in given}
    if weights:
        problem, weight = _resolve_weight(record, name, weights, role)
        read.faults += [problem] if problem else []
        made |= {"weight": weight} if weight != 1 and role == "assistant" else {}
    if role == "assistant":
        thoughts = {key: given.pop(key) for key in THINKING_KEYS if isinstance(given.get(key), str)}
        told = {key: text for key, text in cast("dict[str, str]", thoughts).items() if text.strip()}
        if len(set(told.values())) > 1:
            found = f"different texts under {' and '.join(map(repr, told))}"
            read.faults.append(Problem("D117", record.where(name), found, "one thinking", "remove all but one"))
        if told:
            made["reasoning_content"] = next(iter(told.values()))
    level = "answer" if role == "assistant" else "message"
    read.unread += [Unread(level, name, key, value) for key, value in given.items()]
    return made


def _resolve_weight(
    record: RawRecord, name: str, written: Mapping[str, object], role: object
) -> tuple[Problem | None, float]:
    """Combine the keys that state an answer's weight into one number, or return the problem."""
    numbers: dict[str, float] = {}
    for key, value in written.items():
        where = record.where(f"{name}.{key}")
        if not isinstance(value, (bool, int, float)) or not (
            value == 0 or _SMALLEST_WEIGHT <= value <= _LARGEST_WEIGHT
        ):
            expected = f"0, a number from {_SMALLEST_WEIGHT:f} to {_LARGEST_WEIGHT:,}, true or false"
            bare = value.strip().lower() if isinstance(value, str) else ""
            is_quoted = re.fullmatch(r"\d*\.?\d+|true|false", bare)
            fix = f"write {bare} without quotes" if is_quoted else "write 0 to read the answer and not learn it"
            return Problem("D162", where, quote(value), expected, fix), 1.0
        if key in _SWITCHES and value not in (0, 1):
            fix = "if this is how much the answer counts, rename the key to 'weight'; else remove it"
            return Problem("D162", where, f"the number {value}", "true or false", fix), 1.0
        numbers[key] = float(value)
    if role != "assistant" and any(numbers.values()):
        where, found = (
            record.where(name),
            f"{' and '.join(f'{key!r}: {written[key]}' for key in numbers)} in a turn that is no answer",
        )
        fix = "remove the key, or write the turn as the assistant's"
        return Problem("D162", where, found, "nothing, or 0: only answers are learnt", fix), 1.0
    exact = {number for key, number in numbers.items() if key not in _SWITCHES}
    switched = {bool(number) for number in numbers.values()}
    if len(switched) > 1 or len(exact) > 1:
        found = " and ".join(f"{key!r}: {quote(value)}" for key, value in written.items())
        fix = "keep the key that is right, and remove the others"
        return Problem("D162", record.where(name), found, "keys that agree on whether the answer is learnt", fix), 1.0
    return None, exact.pop() if exact else float(switched.pop())
