"""Judges raw records: finds every fault of every record, each with a stable code, in file order.

Only the content of the data file is judged here, image files by ``image_files``; ``lint`` names what is allowed but
seldom meant. A fault stops a run; nothing is repaired, skipped or guessed. ``docs/data.md`` shows an example of every
code.

Most records are sound, and there may be millions: the place of a fault is worded only if there is one.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import cast

from minicpmv.data.checks.film_values import check_film_value, check_films_of_version
from minicpmv.data.checks.other_tools.foreign_marks import check_marks
from minicpmv.data.checks.other_tools.foreign_records import describe_foreign
from minicpmv.data.checks.placeholders import (
    IMAGE,
    check_placeholders,
    parse_film_field,
    parse_image_field,
    whole_answer,
)
from minicpmv.data.checks.preferences import check_kind, check_rejected
from minicpmv.data.checks.tool_use import check_tools_of_version, may_follow
from minicpmv.data.records.formats.containers.class_labels import UnnamedClass
from minicpmv.data.records.formats.containers.json_list import RepeatedKeys
from minicpmv.data.records.formats.pairs import ANSWERS, CHOICES, QUESTIONS, find_lone_answer, find_question
from minicpmv.data.records.grounding import check_objects
from minicpmv.data.records.record import Kind, RawRecord, quote
from minicpmv.errors import ImageError, Problem
from minicpmv.processing.pictures.patches import read_data_url
from minicpmv.processing.text.chat import left_out, roles_of
from minicpmv.processing.text.thinking import THINK, THOUGHT
from minicpmv.processing.text.turns import Role, Turn
from minicpmv.releases.table import Version

__all__ = ["RecordChecker", "check_image_value"]

_ROLES = ("user", "assistant", "system", "tool")
_ROLE_ALIASES = {
    "human": "user",
    "person": "user",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "chatgpt": "assistant",
    "developer": "system",
}
_CONVERSATIONS_ALIASES = ("conversation", "messages", "message", "dialog", "dialogue", "turns", "chat")
_MESSAGE_ALIASES = {"role": ("from", "speaker"), "content": ("value", "text", "message")}
_TALKS = ("conversations", "messages", *QUESTIONS, "input")
"""Columns of which a row has one, with its messages or its question."""
_RESULT_ROLES = ("tools", "ipython", "tool_result", "tool_output", "function_response")
"""Roles that probably mean the result of a tool."""
_MAX_MISSPELT = 40
"""Most characters of a key that may be a misspelling of ours: comparing longer ones takes long."""
_HIDES_THE_REST = {"D115", "D120", "D121", "D122", "D124"}
"""Faults that leave roles or texts unknown, without which order and placeholders cannot be judged."""


class RecordChecker:
    """Checks records one by one; ``duplicate_ids`` finds what two of them share.

    Args:
        version: The model to be trained, if known. Some versions have no system turns, some support thinking.
        for_training: Whether answers are learned: then the last turn must be an answer, with text.
            Otherwise records are questions to a model, and may end with one.
        kind: What the run makes of records; if not given, they may be of any kind.
    """

    def __init__(self, *, version: Version | None = None, for_training: bool = True, kind: Kind | None = None) -> None:
        self._roles = _ROLES if version is None else roles_of(version)
        self._version = version
        self._model = "" if version is None else version.model
        self._for_training = for_training
        self._kind: Kind | None = kind

    def check(self, record: RawRecord, root: str | None = None) -> Iterator[Problem]:
        """Yield every problem of a record except unread keys, which ``unread_keys`` names once for all records.

        Args:
            record: The raw record.
            root: Folder where relative paths start; with None, no files are looked up that the text may mean.
        """
        if record.faults:
            yield from record.faults
            return
        if not isinstance(record.value, dict):
            found = _describe(record.value)
            yield Problem("D110", record.where(), found, "an object", "write {...} or remove it")
            return
        fields = cast("dict[str, object]", record.value)
        image_faults = [
            *check_image_value(record, fields.get("image")),
            *check_film_value(record, fields.get("video")),
        ]
        yield from _check_keys(record, fields)
        yield from _check_id(record, fields.get("id"))
        yield from _check_references(record, fields.get("references"))
        yield from image_faults
        if "conversations" not in fields:
            return
        messages = fields["conversations"]
        faults = list(_check_messages(record, messages, fewest=2 if self._for_training else 1))
        yield from faults
        if not {fault.code for fault in faults}.isdisjoint(_HIDES_THE_REST):
            return
        sound = cast("list[dict[str, str]]", messages)
        yield from _check_order(record, sound, for_training=self._for_training)
        yield from self._check_version(record, sound)
        if self._version is not None:
            yield from check_tools_of_version(record, fields, sound, self._version)
            yield from check_films_of_version(record, fields.get("video"), self._version)
        worse: list[dict[str, str]] = []
        if self._for_training:
            yield from _check_weights(record, sound)
            yield from check_kind(record, fields, self._kind)
            if "rejected" in fields and sound[-1]["role"] == "assistant":
                faults = list(check_rejected(record, fields["rejected"], sound, self._version))
                yield from faults
                worse = [] if faults else cast("list[dict[str, str]]", fields["rejected"])
        if image_faults:
            return
        images = parse_image_field(fields.get("image"))
        objects = cast("dict[str, object] | None", fields.get("objects"))
        if objects is not None:
            yield from check_objects(record, sound, objects, len(images.paths))
        marks = list(check_marks(record, sound, images.paths, root, has_objects=objects is not None))
        if worse:
            marks += check_marks(record, worse, images.paths, root, has_objects=False, field="rejected")
        yield from marks or check_placeholders(record, sound, images, parse_film_field(fields.get("video")))

    def _check_version(self, record: RawRecord, messages: Sequence[Mapping[str, str]]) -> Iterator[Problem]:
        for number, message in enumerate(messages):
            name = f"conversations[{number}]"
            if message["role"] not in self._roles and message["role"] != "tool":
                found, expected = f"a {message['role']} turn", f"none: {self._model} was trained without"
                fix = "remove the turn, or put its text into the first user turn"
                yield Problem("D151", record.where(f"{name}.role"), found, expected, fix)
            if "reasoning_content" in message:
                yield from self._check_thinking(record, name, message)
        if self._version is not None and self._for_training:
            turns = [Turn(cast("Role", message["role"]), (whole_answer(message),)) for message in messages]
            for left in left_out(turns, self._version):
                where = record.where(f"conversations[{left.turn}].content")
                yield Problem("D152", where, left.found, left.expected, left.fix)

    def _check_thinking(self, record: RawRecord, name: str, message: Mapping[str, str]) -> Iterator[Problem]:
        where, thought = record.where(f"{name}.reasoning_content"), message["reasoning_content"]
        if self._version is not None and not self._version.reading.thinking:
            without = "leave the thinking out (minicpmv convert --leave-out reasoning_content)"
            fix = f"{without}, or write it into the answer's text"
            yield Problem("D164", where, f"thinking: {quote(thought)}", f"none: {self._model} has no place for it", fix)
        elif any(mark in text for mark in (THINK, THOUGHT) for text in (thought, message["content"])):
            found, fix = (
                f"thinking here, and {THINK} or {THOUGHT} in the text",
                "write it in one place, without the marks here",
            )
            yield Problem("D164", where, found, "the thinking once", fix)


def _check_weights(record: RawRecord, messages: Sequence[Mapping[str, object]]) -> Iterator[Problem]:
    """Yield a problem if no answer of a record is learnt: it would cost time without effect."""
    answers = [message for message in messages if message["role"] == "assistant"]
    if answers and not any(message.get("weight", 1) for message in answers):
        fix = "remove the record, or set the weight of an answer above 0"
        yield Problem("D163", record.where("conversations"), "no answer that is learnt", "at least one", fix)


def _check_keys(record: RawRecord, fields: Mapping[str, object]) -> Iterator[Problem]:
    yield from _check_repeated(record, "", fields)
    if "conversations" not in fields:
        if empty := _name_empty(record, _TALKS):
            yield Problem("D111", record.where_written(empty[0]), *_word_empty(empty, "a question"))
            return
        if foreign := describe_foreign(fields):
            found, fix = foreign
            yield Problem("D111", record.where("conversations"), found, "the key 'conversations'", fix)
            return
        alias = _find_alias(fields, "conversations", _CONVERSATIONS_ALIASES)
        found = f"the key {alias!r} instead" if alias else _list_keys(fields)
        fix = f"rename {alias!r} to 'conversations'" if alias else _fix_of_none(record, fields)
        yield Problem("D111", record.where("conversations"), found, "the key 'conversations'", fix)


def _name_empty(record: RawRecord, columns: Iterable[str]) -> list[str]:
    """Return those of some columns whose cell is empty in a row."""
    return [column for column in columns if column in record.empty] if record.empty else []


def _word_empty(columns: Sequence[str], what: str) -> tuple[str, str, str]:
    """Return what was found and expected, and the fix, where the cells of some columns are empty."""
    names = " and ".join(map(repr, columns))
    found = f"an empty cell in the column {names}" if len(columns) == 1 else f"empty cells in the columns {names}"
    return found, f"{what} in each row", "fill the cell, or leave the row out"


def _fix_of_none(record: RawRecord, fields: Mapping[str, object]) -> str:
    """Word what to do about a record without messages and without a question that is known as one."""
    what = "column" if record.is_row else "key"
    if question := find_question(fields):
        return f"rename the {what} {question!r} to 'question'"
    if record.is_row and (answer := find_lone_answer({**fields, **dict.fromkeys(record.empty)})):
        renamed = "" if answer in ANSWERS else f", and rename the column {answer!r} to 'answer'"
        return f"add a column 'question', such as the same instruction in each row{renamed}"
    if record.is_row:
        return "rename the columns that hold the question and the answer to 'question' and 'answer'"
    return "add the messages under 'conversations'"


def _check_repeated(record: RawRecord, name: str, fields: Mapping[str, object]) -> Iterator[Problem]:
    for key in fields.repeated if isinstance(fields, RepeatedKeys) else ():
        found, fix = f"the key {key!r} more than once", "remove or rename one"
        yield Problem("D107", record.where(name), found, "each key once", fix)


def _find_alias(fields: Mapping[str, object], key: str, aliases: tuple[str, ...]) -> str | None:
    """Find a key that was probably meant to be ``key``."""
    return next((name for name in fields if len(name) <= _MAX_MISSPELT and _is_meant_as(name, key, aliases)), None)


@lru_cache(maxsize=1024)  # the same few names are in every record
def _is_meant_as(name: str, key: str, aliases: tuple[str, ...]) -> bool:
    return name.strip().casefold() in (key, *aliases) or difflib.SequenceMatcher(None, name, key).ratio() > 0.85


def _check_id(record: RawRecord, value: object) -> Iterator[Problem]:
    if value is not None and (isinstance(value, bool) or not isinstance(value, (str, int))):
        yield Problem("D113", record.where("id"), quote(value), "text or a whole number", "give the record another id")


def _check_references(record: RawRecord, value: object) -> Iterator[Problem]:
    """Yield a problem unless the accepted answers are texts that can be encoded."""
    if value is None:
        return
    expected, fix = "a list of texts, each an answer that evaluation accepts", "write the texts, or rename the key"
    if not isinstance(value, list) or not value:
        found = "an empty list" if value == [] else _describe(value)
        yield Problem("D129", record.where("references"), found, expected, fix)
        return
    for number, text in enumerate(cast("list[object]", value)):
        if not isinstance(text, str) or any("\ud800" <= character <= "\udfff" for character in text):
            yield Problem("D129", record.where(f"references[{number}]"), _describe(text), expected, fix)


def check_image_value(record: RawRecord, value: object) -> Iterator[Problem]:
    """Yield a problem unless the ``image`` value has one of its forms; without a problem it can be parsed."""
    expected = 'a path, a list of paths, or a dict such as {"<image_00>": path}'
    entries: list[tuple[str, object]]
    if value is None or value == [] or value == {}:
        return
    if isinstance(value, list):
        entries = [(f"image[{i}]", path) for i, path in enumerate(cast("list[object]", value))]
    elif isinstance(value, dict):
        mapping = cast("dict[str, object]", value)
        entries = [(f"image[{key!r}]", path) for key, path in mapping.items()]
        allowed = IMAGE.plain if len(mapping) == 1 else ()
        for key in mapping:
            if key not in allowed and not IMAGE.key.fullmatch(key):
                fix = "rename the key here and in the text"
                yield Problem("D131", record.where("image"), f"the key {key!r}", "keys such as '<image_00>'", fix)
        yield from _check_repeated(record, "image", mapping)
    else:
        entries = [("image", value)]
    for field, path in entries:
        if isinstance(path, bytes) and path:
            continue
        if not isinstance(path, str) or not path.strip():
            fix = "write the path of the image file, or leave 'image' out of a text-only record"
            yield Problem("D130", record.where(field), quote(path), expected, fix)
        elif path.startswith("data:"):
            yield from _check_data_url(record.where(field), path)
        elif re.match(r"(?:https?|s3|ftp|gs|hdfs|oss|file):", path):
            fix = "save the image as a file and write its path"
            if path.startswith("file:"):  # with an absolute path it would have been read
                fix = f"write the path alone: {re.sub('^file:(//)?', '', path)!r}"
            yield Problem("D132", record.where(field), f"an address: {quote(path)}", "the path of a file", fix)


def _check_data_url(where: str, url: str) -> Iterator[Problem]:
    try:
        read_data_url(url)
    except ImageError as error:
        yield Problem("D142", where, error.found, error.expected, error.fix)


def _check_messages(record: RawRecord, messages: object, *, fewest: int) -> Iterator[Problem]:
    if not isinstance(messages, list):
        where = record.where("conversations")
        yield Problem("D115", where, _describe(messages), "a list of messages", "write [...]")
        return
    entries = cast("list[object]", messages)
    if fewest > 1 and (empty := _find_empty_answer(record, entries)):
        yield empty
    elif len(entries) < fewest:
        where, found = record.where("conversations"), "one message" if entries else "no message"
        expected = "at least a question and its answer" if fewest > 1 else "at least a question"
        yield Problem("D116", where, found, expected, "complete or remove the record")
    for number, message in enumerate(entries):
        yield from _check_message(record, number, message)


def _find_empty_answer(record: RawRecord, messages: Sequence[object]) -> Problem | None:
    """Return the problem of a row with a question whose cell for the answer is empty; None if there is none."""
    empty = _name_empty(record, ANSWERS) if record.reading and messages else []
    last = cast("dict[str, object]", messages[-1]) if empty and isinstance(messages[-1], dict) else {}
    if last.get("role") != "user":
        return None
    return Problem("D116", record.where_written(empty[0]), *_word_empty(empty, "an answer to learn"))


def _check_message(record: RawRecord, number: int, message: object) -> Iterator[Problem]:
    name = f"conversations[{number}]"
    if not isinstance(message, dict):
        found = _describe(message)
        yield Problem(
            "D120", record.where(name), found, "{'role': ..., 'content': ...}", "write the message as an object"
        )
        return
    fields = cast("dict[str, object]", message)
    yield from _check_repeated(record, name, fields)
    for key, aliases in _MESSAGE_ALIASES.items():
        if key not in fields:
            alias = next((name for name in aliases if name in fields), None)
            found = f"the key {alias!r} instead" if alias else _list_keys(fields)
            fix = f"rename {alias!r} to {key!r}" if alias else f"add {key!r}"
            yield Problem("D121", record.where(name), found, f"the key {key!r}", fix)
    if "role" in fields and fields["role"] not in _ROLES:
        yield _unknown_role(record.where(f"{name}.role"), fields["role"])
    if "content" in fields:
        yield from _check_content(record, f"{name}.content", fields)


def _unknown_role(where: str, role: object) -> Problem:
    meant = role.strip().lower() if isinstance(role, str) else ""
    meant = _ROLE_ALIASES.get(meant, meant)
    fix = f"write '{meant}'" if meant in _ROLES else "write 'user' for questions and 'assistant' for answers"
    if meant in _RESULT_ROLES:
        fix = "write 'tool' for the result of a tool, and the call under 'tool_calls' of the answer before"
    return Problem("D122", where, f"the role {quote(role)}", "user, assistant, system or tool", fix)


def _check_content(record: RawRecord, name: str, message: Mapping[str, object]) -> Iterator[Problem]:
    content, role = message["content"], message.get("role")
    if not isinstance(content, str):
        fix, expected = _fix_of_text(content, role), "text"
        if isinstance(content, UnnamedClass):
            expected = f"the number of a class: the column names {content.num_names:,}, counted from 0"
            fix = "correct the number, or add the name of the class to the column"
        if CHOICES & {each.key for each in record.unread}:
            fix = "write the text of the choice: its number alone would be learnt as the answer"
        yield Problem("D124", record.where(name), _describe(content), expected, fix)
        return
    if not content.strip():
        where, found = record.where(name), "white space only" if content else "nothing"
        if role == "tool" or (role == "assistant" and (message.get("weight", 1) == 0 or message.get("tool_calls"))):
            return  # an answer that is only context, or calls a tool, may be empty; so may a result
        if role == "assistant":
            yield Problem("D126", where, found, "an answer to learn", "write the answer or remove the record")
        else:
            yield Problem("D127", where, found, "text or a placeholder such as <image>", "write it or remove the turn")
    if "\0" in content:
        found, fix = f"a NUL character at character {content.index(chr(0))}", "remove it, or write the text again"
        expected = "text: NUL comes from wrong decoding or binary data"
        yield Problem("D119", record.where(name), found, expected, fix)
    try:
        content.encode()
    except UnicodeEncodeError as error:
        found = f"half of a surrogate pair at character {error.start}: {quote(content[error.start])}"
        expected = "characters that UTF-8 can write"
        yield Problem("D128", record.where(name), found, expected, "write the text again")


def _fix_of_text(content: object, role: object) -> str:
    """Word what to write in place of a content that is not text."""
    if isinstance(content, bool | int | float):
        return f'write it in quotes: "{str(content).lower() if isinstance(content, bool) else content}"'
    return "write the text in quotes" + ("" if role == "assistant" else ", with <image> where an image stands")


def _check_order(record: RawRecord, messages: Sequence[Mapping[str, str]], *, for_training: bool) -> Iterator[Problem]:
    """Yield at most one problem about the order of roles: later ones would only follow from the first."""
    start = 1 if messages and messages[0]["role"] == "system" else 0
    allowed: tuple[str, ...] = ("user",)
    for number, message in enumerate(messages[start:], start):
        expected = allowed[0]
        if message["role"] in allowed:
            allowed = may_follow(message)
            continue
        if message["role"] == "system":
            fix = "put the system turn first"
        elif message["role"] == "tool":
            fix = "write the call under 'tool_calls' of the answer before, or remove the result"
        elif number == start:
            fix = "begin with the user's turn"
        else:
            fix = f"let user and assistant take turns; if conversations[{number - 1}] goes on here, join the two"
        where = record.where(f"conversations[{number}].role")
        yield Problem("D123", where, f"the role {message['role']!r}", f"{expected!r}", fix)
        return
    last = messages[-1]["role"] if messages else "assistant"
    if for_training and len(messages) > 1 and last != "assistant":
        if _find_empty_answer(record, messages):  # is named already
            return
        expected, fix = "'assistant'", "add the answer or remove the last question"
    elif not for_training and last == "system":
        expected, fix = "'user'", "add the question"
    else:
        return
    where = record.where(f"conversations[{len(messages) - 1}].role")
    yield Problem("D123", where, f"the role {last!r} at the end", expected, fix)


def _list_keys(fields: Mapping[str, object]) -> str:
    return f"the keys {', '.join(map(repr, fields))}" if fields else "no key at all"


def _describe(value: object) -> str:
    """Quote a value of a wrong kind, with JSON's name of the kind."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, UnnamedClass):
        return f"the number of a class without a name: {quote(value)}"
    kinds = {str: "text", int: "a number", float: "a number", list: "a list"}
    return f"{kinds.get(type(value), 'an object')}: {quote(value)}"
