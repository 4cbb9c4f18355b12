"""The styles in which people write conversations, brought into one form before anything is judged.

Ours (``conversations`` with role and content), LLaVA's and ShareGPT's (``conversations`` with from and value),
OpenAI's (``messages``, whose content is text or parts) and that of transformers (the same with other image parts). What
fits none of them stays as it is and is judged as ours; what mixes them is a fault. ``FieldNames`` remembers the user's
own words.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import cast

from minicpmv.data.formats.json_list import RepeatedKeys
from minicpmv.data.formats.parts import read_parts
from minicpmv.data.records import FieldNames, RawRecord
from minicpmv.errors import Problem
from minicpmv.processing.images import ImageError, read_data_url

__all__ = ["to_own_form"]

_SHAREGPT_ROLES = {"human": "user", "gpt": "assistant"}
"""What ``from`` holds; user, assistant and system are taken as well."""

_MEANINGFUL_KEYS = ("system", "tools", "video", "videos", "audio", "audios")
"""Keys of a record that other tools train on. Passing over them in silence would lose a part of what is written."""


def to_own_form(record: RawRecord) -> RawRecord:
    """Bring a record into our form, and say in its ``names`` what the fields were called.

    A record that mixes styles, or whose parts cannot be read, keeps its value and gets ``faults``.
    """
    if not isinstance(record.value, dict):
        return record
    fields = cast("dict[str, object]", record.value)
    image_key = _present(fields, "image", "images")
    talk_key = _present(fields, "conversations", "messages")
    faults = [
        *_mixed(record, fields, "conversations", "messages"),
        *_mixed(record, fields, "image", "images"),
        *_check_ignored(record, fields),
        *_check_inner_keys(record, fields, image_key),
    ]
    names = _shared_names(talk_key, image_key)
    own = {key: value for key, value in fields.items() if key not in {"messages", "images", "image"}}
    if image_key in fields:
        own["image"] = _plain_images(fields[image_key])
    if talk_key in fields:
        own["conversations"] = fields[talk_key]
    if faults:
        return dataclasses.replace(record, faults=tuple(faults))
    if talk_key == "messages":
        return _from_messages(record, fields, own, names)
    if _is_sharegpt(fields.get("conversations")):
        return _from_sharegpt(record, fields, own, names)
    return dataclasses.replace(record, value=_like(fields, own), names=names)


@lru_cache(maxsize=32)  # one object for all records of a style, not one for each of millions
def _shared_names(conversations: str, image: str, *, role: str = "role", content: str = "content") -> FieldNames:
    return FieldNames(conversations=conversations, role=role, content=content, image=image)


def _present(fields: Mapping[str, object], first: str, second: str) -> str:
    """Choose the key that holds something; tables, and some tools, write both with one of them null or empty."""
    if second not in fields or fields.get(first):
        return first
    return first if fields[second] is None and first in fields else second


def _mixed(record: RawRecord, fields: Mapping[str, object], first: str, second: str) -> Iterator[Problem]:
    if fields.get(first) and fields.get(second):
        found = f"the keys {first!r} and {second!r} in one record"
        yield Problem("D117", record.where(), found, "one of them", "join what they hold, or remove one")


def _check_ignored(record: RawRecord, fields: Mapping[str, object]) -> Iterator[Problem]:
    for key in _MEANINGFUL_KEYS:
        if fields.get(key):
            fix = "write a system message first in the conversation" if key == "system" else "remove the key"
            yield Problem("D125", record.where(key), f"the key {key!r}", "nothing but images and a conversation", fix)


def _check_inner_keys(record: RawRecord, fields: Mapping[str, object], image_key: str) -> Iterator[Problem]:
    """Yield a problem for a key that stands twice in what is read and not kept: parts, and structs of images."""
    image = fields.get(image_key)
    if isinstance(image, list) or _is_image_struct(image):
        yield from _repeated_in(record, image, image_key)
    messages = fields.get("messages")
    for number, message in enumerate(cast("list[object]", messages) if isinstance(messages, list) else ()):
        content = cast("dict[str, object]", message).get("content") if isinstance(message, dict) else None
        if isinstance(content, list):
            yield from _repeated_in(record, content, f"messages[{number}].content")


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


def _like(original: Mapping[str, object], made: dict[str, object]) -> dict[str, object]:
    """Keep in mind that keys stood twice in what ``made`` was made of."""
    if not isinstance(original, RepeatedKeys):
        return made
    marked = RepeatedKeys(made.items())
    marked.repeated = original.repeated
    return marked


def _plain_images(value: object) -> object:
    """Replace ``data:`` URLs by what they hold, and the structs of Hugging Face's columns by their bytes or path."""
    if isinstance(value, list):
        return [_plain_image(entry) for entry in cast("list[object]", value)]
    if isinstance(value, dict) and not _is_image_struct(value):
        mapping = cast("dict[str, object]", value)
        return _like(mapping, {key: _plain_image(entry) for key, entry in mapping.items()})
    return _plain_image(value)


def _plain_image(value: object) -> object:
    if isinstance(value, str) and value.startswith("data:"):
        try:
            return read_data_url(value)
        except ImageError:
            return value  # for ``checking`` to word
    if not _is_image_struct(value):
        return value
    struct = cast("dict[str, object]", value)
    return struct["bytes"] if struct.get("bytes") is not None else struct.get("path")


def _is_image_struct(value: object) -> bool:
    return isinstance(value, dict) and bool(value) and value.keys() <= {"bytes", "path"}


def _is_sharegpt(talk: object) -> bool:
    if not isinstance(talk, list):
        return False
    messages = [message for message in cast("list[object]", talk) if isinstance(message, dict)]
    return any("from" in message and "value" in message for message in messages) and not any(
        "role" in message or "content" in message for message in messages
    )


def _from_sharegpt(
    record: RawRecord, fields: Mapping[str, object], own: dict[str, object], names: FieldNames
) -> RawRecord:
    talk: list[object] = []
    faults: list[Problem] = []
    for number, message in enumerate(cast("list[object]", own["conversations"])):
        if not isinstance(message, dict):
            talk.append(message)
            continue
        given = cast("dict[str, object]", message)
        for key in ("from", "value"):
            if key not in given:
                where = record.where(f"conversations[{number}]")
                found = f"the keys {', '.join(map(repr, given))}" if given else "no key at all"
                faults.append(Problem("D121", where, found, f"the key {key!r}", f"add {key!r}"))
        made = {key: value for key, value in given.items() if key not in {"from", "value"}}
        role = given.get("from")
        made["role"] = _SHAREGPT_ROLES.get(role, role) if isinstance(role, str) else role
        made["content"] = given.get("value")
        talk.append(_like(given, made))
    own["conversations"] = talk
    names = _shared_names(names.conversations, names.image, role="from", content="value")
    return dataclasses.replace(record, value=_like(fields, own), names=names, faults=tuple(faults))


def _from_messages(
    record: RawRecord, fields: Mapping[str, object], own: dict[str, object], names: FieldNames
) -> RawRecord:
    messages = own["conversations"]
    if not isinstance(messages, list):
        return dataclasses.replace(record, value=_like(fields, own), names=names)
    talk, images, places = list(cast("list[object]", messages)), list[object](), list[str]()
    faults: list[Problem] = []
    bare: list[str] = []
    for number, message in enumerate(talk):
        if not isinstance(message, dict) or not isinstance(cast("dict[str, object]", message).get("content"), list):
            continue
        given = cast("dict[str, object]", message)
        read = read_parts(
            cast("list[object]", given["content"]),
            record=record,
            place=f"messages[{number}].content",
            images_allowed=given.get("role") == "user",
        )
        faults += read.problems
        images += [_plain_image(image) for image in read.images]
        places += read.places
        bare += read.bare
        talk[number] = _like(given, {**given, "content": read.text})
    faults += _check_sources(record, own.get("image"), images, bare, names)
    if images and not faults:
        own["image"] = images
        names = dataclasses.replace(names, parts=tuple(places))
    own["conversations"] = talk
    return dataclasses.replace(record, value=_like(fields, own), names=names, faults=tuple(faults))


def _check_sources(
    record: RawRecord, image: object, images: list[object], bare: list[str], names: FieldNames
) -> Iterator[Problem]:
    """Yield problems unless the images stand in the parts, or all of them under the record's own key."""
    if image and images:
        found = f"images both under {names.image!r} and in the messages"
        yield Problem("D117", record.where(), found, "one of them", "name each image in one place")
    elif bare and not image:
        fix = "write {'type': 'image', 'path': ...}, or name the images under 'images' of the record"
        yield Problem("D118", record.where(bare[0]), "an image part without an image", "its path or data", fix)
