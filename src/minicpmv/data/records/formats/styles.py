"""Converts all styles of conversations to one form before anything is judged.

The styles are ours (``conversations`` with role and content), LLaVA's and ShareGPT's (``conversations`` with from and
value), OpenAI's (``messages``, whose content is text or parts), that of transformers (the same with other image parts),
and records without messages (``pairs``). A record of no known style is kept and judged as ours; one that mixes them is
a fault. ``FieldNames`` remembers the user's own names.

A value in our form has only the keys of ``_OWN_KEYS``: every key that no reader took is in ``unread``, because
it was never copied, not because its name is known.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal, cast

from minicpmv.data.records.films import is_film_struct, plain_films
from minicpmv.data.records.formats.containers.json_list import RepeatedKeys, mark_like
from minicpmv.data.records.formats.images import is_image_struct, plain_images
from minicpmv.data.records.formats.messages import (
    Messages,
    is_plain_message,
    is_sharegpt,
    read_messages,
    read_plain_sharegpt,
)
from minicpmv.data.records.formats.pairs import (
    PREFERENCE_KEYS,
    QUESTIONS,
    Pair,
    is_pair,
    read_pair,
    spell_values,
    unify_preference,
)
from minicpmv.data.records.formats.parts import Shown
from minicpmv.data.records.formats.tool_use import read_listed
from minicpmv.data.records.record import OWN_NAMES, SHOWN, FieldNames, RawRecord, Unread
from minicpmv.errors import Problem

__all__ = ["to_own_form"]

_OWN_KEYS = ("id", "image", "video", "tools", "conversations", "references", "objects", "rejected", "label")
"""Keys of a record in our form."""
_READ = frozenset(
    {"conversations", "messages", "image", "images", "references", "objects", "system", "system_prompt", "tools"}
)
_READ = _READ.union(QUESTIONS, PREFERENCE_KEYS, ("rejected", "label", "video", "videos"))
"""Keys of a record that decide its style."""
_PROMPTED = ("prompt", "completion")
_OBJECT_KEYS = ("ref", "bbox", "bbox_type", "image_id")
"""Keys of ms-swift's ``objects`` that are read."""


@dataclass(slots=True)
class _Reading:
    """Holds one record during conversion."""

    record: RawRecord
    fields: dict[str, object]
    """Fields as written, without null."""
    own: dict[str, object] = field(default_factory=dict)
    taken: set[str] = field(default_factory=lambda: {"id", "references"})
    names: FieldNames = OWN_NAMES
    faults: list[Problem] = field(default_factory=list)
    unread: list[Unread] = field(default_factory=list)

    def refuse(self, code: str, place: str, found: str, expected: str, fix: str) -> None:
        self.faults.append(Problem(code, self.record.where(place), found, expected, fix))


def to_own_form(record: RawRecord) -> RawRecord:
    """Convert a record to our form, with the original field names in ``names`` and the unread keys in ``unread``.

    The empty cells of a row are not in its value: their columns are in ``empty``.
    A record that mixes styles, or whose parts cannot be read, gets ``faults``.
    """
    if not isinstance(record.value, dict):
        return record
    if record.is_row:
        record = _leave_out_empty_cells(record)
    written = cast("dict[str, object]", record.value)
    if record.is_row:
        written = spell_values(written)
    plain = _read_plain(record, written)
    if plain is not None:
        return plain
    given = {key: value for key, value in written.items() if not _is_left_out(key, value)}
    reading = _Reading(record, unify_preference(given))
    fields = reading.fields
    talk_key = _present(fields, "conversations", "messages")
    image_key, film_key = _present(fields, "image", "images"), _present(fields, "video", "videos")
    reading.faults += [
        *_mixed(record, fields, "conversations", "messages"),
        *_mixed(record, fields, "image", "images"),
        *_mixed(record, fields, "video", "videos"),
        *_check_inner_keys(record, fields, image_key, film_key),
    ]
    # Of each pair one is empty, or both are reported above.
    reading.taken |= {*SHOWN, "conversations", "messages"}
    reading.names = _shared_names(talk_key, image_key, video=film_key)
    if image_key in fields:
        reading.own["image"] = plain_images(fields[image_key], image_key, reading.unread.append)
    if film_key in fields:
        reading.own["video"] = plain_films(fields[film_key], film_key, reading.unread.append)
    how = ""
    if talk_key in fields:
        _read_talk(reading, fields[talk_key], talk_key)
    elif _is_prompted(fields):
        how = _read_prompted(reading)
    elif "conversations" in written and not is_pair(fields):
        reading.own["conversations"] = None  # not a conversation
    elif is_pair(fields):
        how = _read_pair(reading).reading
    else:  # the check of records looks for the key that was meant
        kept = {key: value for key, value in fields.items() if key not in SHOWN}
        return dataclasses.replace(record, value=mark_like(written, kept | reading.own), names=reading.names)
    _read_instruction(reading)
    _read_tools(reading)
    _read_objects(reading)
    _read_preference(reading, is_talk=talk_key in fields or _is_prompted(fields))
    _name_images(reading, image_key, "parts")
    _name_images(reading, film_key, "film_parts")
    return _finish(reading, written, how)


def _leave_out_empty_cells(record: RawRecord) -> RawRecord:
    row = cast("dict[str, object]", record.value)
    empty = tuple([key for key, value in row.items() if _is_empty_cell(key, value)])
    if not empty:
        return record
    rest = {key: value for key, value in row.items() if key not in empty}
    return dataclasses.replace(record, value=rest, empty=empty)


def _is_empty_cell(key: str, value: object) -> bool:
    """Return whether a cell holds nothing; of pictures and films, also an empty path or list."""
    is_nan = isinstance(value, float) and math.isnan(value)
    return value is None or is_nan or (key in SHOWN and value in ("", [], {}))


def _read_plain(record: RawRecord, fields: dict[str, object]) -> RawRecord | None:
    """Read a record whose messages have only role and text, as nearly all do; return None for any other."""
    talk_key = "conversations" if "conversations" in fields else "messages"
    image_key = "images" if "images" in fields else "image"
    rest = fields.keys() - {"id", talk_key, image_key}
    if type(fields) is not dict or (
        rest and not (_READ.isdisjoint(rest) and all(fields[key] is not None for key in rest))
    ):
        return None
    image, talk = fields.get(image_key), fields.get(talk_key)
    if not isinstance(talk, list) or not talk or (image_key in fields and not _is_plain_image(image)):
        return None
    messages, names = cast("list[object]", talk), OWN_NAMES
    if all(map(is_plain_message, messages)):
        if not rest and talk_key == "conversations" and image_key == "image":
            return record
        names = _shared_names(talk_key, image_key)
    else:
        messages = read_plain_sharegpt(messages)
        if messages is None:
            return None
        names = _shared_names(talk_key, image_key, role="from", content="value")
    value: dict[str, object] = {"id": fields["id"]} if "id" in fields else {}
    if image_key in fields:
        value["image"] = image
    value["conversations"] = messages
    return RawRecord(
        source=record.source,
        index=record.index,
        line=record.line,
        value=value,
        names=names,
        unread=tuple([Unread("record", "", key, fields[key]) for key in fields if key in rest]) if rest else (),
        is_row=record.is_row,
        empty=record.empty,
    )


def _is_plain_image(image: object) -> bool:
    """Return whether an ``image`` value consists of paths, as in our form."""
    paths = cast("list[object]", image) if isinstance(image, list) else (image,)
    return all(isinstance(path, str) and path and not path.startswith(("data:", "file:")) for path in paths)


def _finish(reading: _Reading, written: Mapping[str, object], how: str) -> RawRecord:
    for key in ("id", "references"):
        if key in reading.fields and key not in reading.own:
            reading.own[key] = reading.fields[key]
    rest = [Unread("record", "", key, value) for key, value in reading.fields.items() if key not in reading.taken]
    value = {key: reading.own[key] for key in _OWN_KEYS if key in reading.own}
    return dataclasses.replace(
        reading.record,
        value=mark_like(written, value),
        names=reading.names,
        faults=tuple(reading.faults),
        unread=(*rest, *reading.unread),
        reading=how,
    )


def _is_left_out(key: str, value: object) -> bool:
    return value is None or (key in SHOWN and isinstance(value, str) and not value)


def _name_images(reading: _Reading, key: str, of: Literal["parts", "film_parts"]) -> None:
    """Keep the original indices of images, or films, in a list that contains null."""
    written = reading.fields.get(key)
    entries = cast("list[object]", written) if isinstance(written, list) else []
    if None in entries:
        places = tuple(f"{key}[{number}]" for number, entry in enumerate(entries) if entry is not None)
        reading.names = dataclasses.replace(reading.names, **{of: places})


@lru_cache(maxsize=32)  # one shared object per style, not one for each of millions of records
def _shared_names(
    conversations: str, image: str, *, role: str = "role", content: str = "content", video: str = "video"
) -> FieldNames:
    return FieldNames(conversations=conversations, role=role, content=content, image=image, video=video)


@lru_cache(maxsize=256)
def _names_with_texts(names: FieldNames, texts: tuple[str, ...]) -> FieldNames:
    return dataclasses.replace(names, texts=texts)


def _present(fields: Mapping[str, object], first: str, second: str) -> str:
    """Choose the key that is not empty; some tools write both with one of them empty."""
    return first if second not in fields or fields.get(first) else second


def _mixed(record: RawRecord, fields: Mapping[str, object], first: str, second: str) -> Iterator[Problem]:
    if fields.get(first) and fields.get(second):
        found = f"the keys {first!r} and {second!r} in one record"
        yield Problem("D117", record.where(), found, "one of them", "join what they hold, or remove one")


def _check_inner_keys(
    record: RawRecord, fields: Mapping[str, object], image_key: str, film_key: str
) -> Iterator[Problem]:
    """Yield a problem for repeated keys in values that are not kept: parts, and structs of images and films."""
    for key, is_struct in ((image_key, is_image_struct), (film_key, is_film_struct)):
        value = fields.get(key)
        if isinstance(value, list) or is_struct(value):
            yield from _repeated_in(record, value, key)
    for key in ("objects", "tools", "rejected"):
        yield from _repeated_in(record, fields.get(key), key)
    for talk in ("conversations", "messages"):
        messages = fields.get(talk)
        for number, message in enumerate(cast("list[object]", messages) if isinstance(messages, list) else ()):
            for key in ("content", "value", "tool_calls", "function_call") if isinstance(message, dict) else ():
                content = cast("dict[str, object]", message).get(key)
                if isinstance(content, list) or key.endswith(("calls", "call")):
                    yield from _repeated_in(record, content, f"{talk}[{number}].{key}")


def _repeated_in(record: RawRecord, value: object, place: str) -> Iterator[Problem]:
    if isinstance(value, RepeatedKeys):
        for key in value.repeated:
            where = record.where(place)
            yield Problem("D107", where, f"the key {key!r} more than once", "each key once", "remove or rename one")
    if isinstance(value, dict):
        for key, entry in cast("dict[str, object]", value).items():
            yield from _repeated_in(record, entry, f"{place}.{key}")
    elif isinstance(value, list):
        for number, entry in enumerate(cast("list[object]", value)):
            yield from _repeated_in(record, entry, f"{place}[{number}]")


def _read_talk(reading: _Reading, talk: object, key: str) -> None:
    if not isinstance(talk, list):
        reading.own["conversations"] = talk
        return
    messages = cast("list[object]", talk)
    role_key, content_key = ("from", "value") if is_sharegpt(messages) else ("role", "content")
    read = read_messages(messages, reading.record, key, role_key=role_key, content_key=content_key)
    video = reading.names.video
    reading.names = _shared_names(key, reading.names.image, role=role_key, content=content_key, video=video)
    if len(read.texts) < len(messages):  # null is passed over, and calls join the answer before them
        reading.names = _names_with_texts(reading.names, tuple(read.texts))
    reading.own["conversations"] = read.talk
    reading.faults += read.faults
    reading.unread += read.unread
    _place_images(reading, read)
    if any(key in reading.fields for key in QUESTIONS):
        _check_second_talk(reading)


def _is_prompted(fields: Mapping[str, object]) -> bool:
    """Return whether a record has TRL's ``prompt`` and ``completion``, each a list of messages."""
    return all(
        isinstance(fields.get(key), list)
        and any(isinstance(message, dict) and "role" in message for message in cast("list[object]", fields[key]))
        for key in _PROMPTED
    )


def _read_prompted(reading: _Reading) -> str:
    """Read the messages of ``prompt``, whose answers are context, and those of ``completion``; return how, in words."""
    whole = Messages()
    for key in _PROMPTED:
        messages = cast("list[object]", reading.fields[key])
        read = read_messages(messages, reading.record, key, role_key="role", content_key="content")
        if key == "prompt":
            read.talk = [_as_context(message) for message in read.talk]
        for each in dataclasses.fields(Messages):
            getattr(whole, each.name).extend(getattr(read, each.name))
    reading.own["conversations"] = whole.talk
    reading.taken |= set(_PROMPTED)
    names = _shared_names("prompt", reading.names.image, video=reading.names.video)
    reading.names = _names_with_texts(names, tuple(whole.texts))
    reading.faults += whole.faults
    reading.unread += whole.unread
    _place_images(reading, whole)
    return "'prompt' and 'completion' as the messages, of which answers in 'prompt' are context"


def _as_context(message: object) -> object:
    fields = cast("dict[str, object]", message) if isinstance(message, dict) else {}
    return mark_like(fields, fields | {"weight": 0.0}) if fields.get("role") == "assistant" else message


def _place_images(reading: _Reading, read: Messages) -> None:
    """Take the images and films of parts, or report images or films in two places or in none."""
    _place_shown(reading, read.images, "image", "parts")
    _place_shown(reading, read.films, "video", "film_parts")


def _place_shown(
    reading: _Reading, read: Shown, kind: Literal["image", "video"], of: Literal["parts", "film_parts"]
) -> None:
    known, key = reading.own.get(kind), getattr(reading.names, kind)
    if known and read.values:
        found = f"{kind}s both under {key!r} and in the messages"
        reading.refuse("D117", "", found, "one of them", f"name each {kind} in one place")
    elif read.bare and not known:
        fix = f"write {{'type': '{kind}', 'path': ...}}, or name the {kind}s under '{kind}s' of the record"
        what = "an image part without an image" if kind == "image" else "a video part without a video"
        expected = "its path or data" if kind == "image" else "its path"
        reading.refuse("D118", read.bare[0], what, expected, fix)
    elif read.values:
        reading.own[kind] = read.values
        reading.names = dataclasses.replace(reading.names, **{of: tuple(read.places)})


def _check_second_talk(reading: _Reading) -> None:
    """Report a question and an answer in addition to messages, unless the messages hold the same texts."""
    pair = read_pair(reading.fields, reading.record) if is_pair(reading.fields) else Pair()
    talk = cast("list[object]", reading.own["conversations"])
    texts = {cast("dict[str, object]", message).get("content") for message in talk if is_plain_message(message)}
    if len(pair.talk) > 1 and any(
        cast("dict[str, object]", said)["content"] not in texts for said in pair.talk if is_plain_message(said)
    ):
        found = f"{reading.names.conversations!r} and {' and '.join(map(repr, pair.texts))} in one record"
        reading.refuse("D117", "", found, "one conversation", "remove one of them")


def _read_pair(reading: _Reading) -> Pair:
    pair = read_pair(reading.fields, reading.record)
    reading.faults += pair.faults
    reading.taken |= set(pair.taken)
    reading.unread += pair.unread
    reading.own["conversations"] = pair.talk
    if pair.references is not None and not pair.faults:
        reading.own["references"] = pair.references
    reading.names = _names_with_texts(reading.names, tuple(pair.texts))
    return pair


def _read_instruction(reading: _Reading) -> None:
    """Add the text under ``system`` or ``system_prompt`` of the record as the first, system turn."""
    fields = reading.fields
    keys = [key for key in ("system", "system_prompt") if isinstance(fields.get(key), str)]
    reading.taken |= set(keys)
    texts = {cast("str", fields[key]) for key in keys if cast("str", fields[key]).strip()}
    talk = reading.own.get("conversations")
    if not texts or not isinstance(talk, list):
        return
    messages = cast("list[object]", talk)
    first = cast("dict[str, object]", messages[0]) if messages and isinstance(messages[0], dict) else {}
    if len(texts) > 1 or (first.get("role") == "system" and first.get("content") not in texts):
        among = " and in the messages" if len(texts) == 1 else ""
        found = f"different instructions under {' and '.join(map(repr, keys))}{among}"
        reading.refuse("D117", "", found, "one instruction", "join what they hold, or remove one")
    elif first.get("role") != "system":
        places = reading.names.texts or [
            f"{reading.names.conversations}[{number}].{reading.names.content}" for number in range(len(messages))
        ]
        reading.own["conversations"] = [{"role": "system", "content": texts.pop()}, *messages]
        reading.names = _names_with_texts(reading.names, (keys[0], *places))


def _read_tools(reading: _Reading) -> None:
    """Take the functions that a record announces; an empty list, or text, announces none."""
    value = reading.fields.get("tools")
    reading.taken.add("tools")
    if value in (None, [], {}) or (
        isinstance(value, str) and value.strip() in ("", "[]", "{}", "null", "none", "None")
    ):
        return
    reading.own["tools"], faults = read_listed(reading.record, value)
    reading.faults += faults


def _read_preference(reading: _Reading, *, is_talk: bool) -> None:
    """Take the worse answer to a conversation, text or messages; and whether its own answer is good."""
    fields = reading.fields
    if is_talk and isinstance(fields.get("label"), bool):
        reading.own["label"] = fields["label"]
        reading.taken.add("label")
    if "rejected" not in fields or not (is_talk or "chosen" in reading.taken):
        return
    reading.taken.add("rejected")
    scores = fields.get("scores")
    if isinstance(scores, dict) and cast("dict[object, object]", scores).keys() >= {"chosen", "rejected"}:
        reading.taken.add("scores")  # what `minicpmv pairs` paired by: the order of the answers says it already
    written = fields["rejected"]
    if isinstance(written, str):
        reading.own["rejected"] = [{"role": "assistant", "content": written}]
        return
    messages = cast("list[object]", written if isinstance(written, list) else [written])
    role_key, content_key = ("from", "value") if is_sharegpt(messages) else ("role", "content")
    read = read_messages(messages, reading.record, "rejected", role_key=role_key, content_key=content_key)
    reading.own["rejected"] = read.talk
    reading.faults += read.faults
    reading.unread += read.unread


def _read_objects(reading: _Reading) -> None:
    """Take ms-swift's ``objects``, which hold the names and boxes for marks in the text."""
    objects = reading.fields.get("objects")
    if not isinstance(objects, dict) or {"ref", "bbox"}.isdisjoint(cast("dict[str, object]", objects)):
        return
    given = {key: value for key, value in cast("dict[str, object]", objects).items() if value is not None}
    reading.taken.add("objects")
    reading.own["objects"] = {key: given[key] for key in _OBJECT_KEYS if key in given}
    reading.unread += [
        Unread("objects", "objects", key, value) for key, value in given.items() if key not in _OBJECT_KEYS
    ]
