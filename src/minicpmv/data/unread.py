"""Names each key that nothing reads, once for each file, and says which of them would change what is learnt.

A key matters by what it holds: a picture, sound or film, boxes, a number or boolean beside an answer, a boolean of the
record, a long text. Then it is a problem of every record that has it; otherwise a notice. What other tools mean by a
name is in ``meanings``.
"""

from __future__ import annotations

import os
import re
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import cast

import numpy as np
from numpy.typing import NDArray

from minicpmv.data.meanings import HARMLESS, meaning_of
from minicpmv.data.records import RawRecord, Unread, quote
from minicpmv.data.values import are_points, find_boxes, find_media, holds_numbers, is_number, texts_in
from minicpmv.errors import Problem

__all__ = ["UnreadKeys"]

_LONG = 100
"""Characters of a text that is more than a label."""
_LONG_BESIDE_AN_ANSWER = 3
"""Words of one beside an answer: it may be part of what should be learnt."""
_SIZES = re.compile("size|shape|wh$|resolution|dim")
"""Names of pairs of numbers that are no points."""
_HARMLESS_ENDINGS = ("_id", "_ids", "_index", "_idx")
_SHOWN = {
    "record": "",
    "message": "messages: ",
    "answer": "messages: ",
    "part": "parts: ",
    "image": "images: ",
    "objects": "objects: ",
}


@dataclass(slots=True)
class _Kind:
    """One key of one file, at one level."""

    first: tuple[int, RawRecord, Unread]
    count: int = 0
    serious: tuple[int, RawRecord, Unread, str] | None = None
    """The first one that matters, and why."""
    is_picture: bool = False
    positions: array[int] = field(default_factory=lambda: array("q"))
    """Of the records in which it matters."""
    looked_up: set[str] = field(default_factory=set[str])


class UnreadKeys:
    """Takes in records one after the other, and says of each key that none of them is read.

    Args:
        ignored: Keys that somebody knows of and does without.
    """

    def __init__(self, ignored: Iterable[str] = ()) -> None:
        self._ignored = frozenset(ignored)
        self._kinds: dict[tuple[str, str, str], _Kind] = {}
        self._names: set[str] = set()
        self._readings: dict[tuple[str, str], list[int | RawRecord]] = {}

    def add(self, record: RawRecord, position: int, root: str) -> None:
        """Take in a record.

        Args:
            record: As read.
            position: What stands for it in what is returned.
            root: Folder at which its relative paths start.
        """
        if record.reading:
            seen = self._readings.setdefault((record.source, record.reading), [position, record, 0])
            seen[2] = cast("int", seen[2]) + 1
        for each in record.unread:
            if each.key in self._ignored:
                self._names.add(_SHOWN[each.level] + each.key)
                continue
            name = (record.source, each.level, each.key)
            kind = self._kinds.get(name)
            if kind is None:
                kind = self._kinds[name] = _Kind((position, record, each))
            kind.count += 1
            why = _weigh(each, record, root, kind)
            if why is None:
                continue
            if kind.serious is None:
                kind.serious, kind.is_picture = (position, record, each, why), why.startswith("a picture")
            if not kind.positions or kind.positions[-1] != position:
                kind.positions.append(position)

    def problems(self) -> Iterator[tuple[NDArray[np.int64], Problem]]:
        """Yield a problem for each key that matters, with the positions of all records in which it does."""
        for kind in self._kinds.values():
            if kind.serious is None:
                continue
            _, record, each, why = kind.serious
            where, found = _where(record, each), f"the key {each.key!r}, which nothing reads{_times(kind.count)}: {why}"
            expected, fix = _words(each)
            if kind.is_picture:
                expected, fix = "images under the key 'image'", _image_fix(each)
            hint = f"; or do without it: minicpmv convert --leave-out {each.key}"
            problem = Problem("D112" if kind.is_picture else "D160", where, found, expected, fix + hint)
            yield np.array(kind.positions, dtype=np.int64), problem

    def notices(self) -> Iterator[tuple[int, Problem]]:
        """Yield a notice for each other key, and for each way in which records without messages were read."""
        for (_, how), (position, record, count) in self._readings.items():
            where, found = cast("RawRecord", record).where(), f"a record without messages{_times(cast('int', count))}"
            fix = "nothing, if that is what the keys mean"
            yield cast("int", position), Problem("D321", where, found, f"messages; read with {how}", fix, "notice")
        for kind in self._kinds.values():
            if kind.serious is None:
                position, record, each = kind.first
                found = f"the key {each.key!r}{_times(kind.count)}: {quote(each.value)}"
                meaning = meaning_of(each.key, each.value)
                said = f"; elsewhere it is {meaning.means}" if meaning else ""
                expected = f"keys that something here reads; it is ignored{said}"
                fix = meaning.fix if meaning else "nothing, unless it was meant to be read"
                yield position, Problem("D320", _where(record, each), found, expected, fix, "notice")

    def names(self) -> list[str]:
        """Return the keys, with the level of those that are no key of a record, in alphabetical order."""
        return sorted(self._names | {_SHOWN[level] + key for _, level, key in self._kinds})


def _where(record: RawRecord, each: Unread) -> str:
    key = each.key if each.key.isidentifier() else repr(each.key)
    return record.where(f"{each.place}.{key}" if each.place else key)


def _times(count: int) -> str:
    return "" if count == 1 else f" ({count:,} times in this file)"


def _words(each: Unread) -> tuple[str, str]:
    """Return what was expected in place of an unread key, and the fix."""
    meaning = meaning_of(each.key, each.value)
    if meaning:
        return f"no such key; elsewhere it is {meaning.means}", meaning.fix
    if each.level == "answer":
        fix = 'if it says how much the answer counts, rename it to "weight"; else put it into the answer, or remove it'
        return "role, content, weight and reasoning_content in an answer", fix
    return (
        "keys that are read: what this one holds would be lost",
        "write what it holds where it is read, or remove the key",
    )


def _image_fix(each: Unread) -> str:
    if each.level in ("message", "answer", "part"):
        return "name the picture under 'image' of the record, with <image> where it stands"
    return (
        f"rename {each.key!r} to 'image'"
        if each.level == "record"
        else "name each picture once, under 'image' of the record"
    )


def _weigh(each: Unread, record: RawRecord, root: str, kind: _Kind) -> str | None:
    """Say why a value matters, or return None."""
    value = each.value
    if value in ("", [], {}) or (isinstance(value, str) and not value.strip()):
        return None
    meaning = meaning_of(each.key, value)
    if meaning and meaning.decisive and not _says_nothing(value):
        return f"{quote(value)}"
    told = find_media(value, root, kind.looked_up)
    if told is None and (find_boxes(value) or (are_points(value) and not _SIZES.search(each.key.lower()))):
        told = f"boxes or points: {quote(value)}"
    if told is None:
        told = _find_judgement(each)
    return None if told is None or _is_known(value, record) else told


def _says_nothing(value: object) -> bool:
    return isinstance(value, str) and value.strip().lower() in ("[]", "{}", "null", "none")


def _find_judgement(each: Unread) -> str | None:
    """Say whether a value may qualify an answer, or be a part of one."""
    value, key = each.value, each.key
    if key.lower() in HARMLESS or key.lower().endswith(_HARMLESS_ENDINGS):
        return None
    flat = cast("list[object]", value) if isinstance(value, list) else [value]
    if each.level in ("record", "answer") and any(isinstance(entry, bool) for entry in flat):
        return f"the boolean {str(flat[0]).lower()}" if value is flat[0] else f"booleans: {quote(value)}"
    if each.level in ("answer", "objects") and any(map(is_number, flat)):
        return f"a number beside {'an answer' if each.level == 'answer' else 'boxes'}: {quote(value)}"
    if any(_is_long(text, each.level) for text in texts_in(value)):
        return f"a text: {quote(value)}"
    return None


def _is_long(text: str, level: str) -> bool:
    if re.fullmatch(r"\w+://\S+", text):
        return False
    return len(text) > _LONG or (
        level == "answer" and len(text.split(None, _LONG_BESIDE_AN_ANSWER)) >= _LONG_BESIDE_AN_ANSWER
    )


def _is_known(value: object, record: RawRecord) -> bool:
    """Whether a record says the same where it is read: then nothing is lost.

    Pictures are told by the names of their files, and of one that has any, an address is where they are from.
    """
    fields = cast("dict[str, object]", record.value) if isinstance(record.value, dict) else {}
    image = fields.get("image")
    if image and isinstance(value, str) and re.match(r"https?://\S+$", value):
        return True  # where the picture is from
    if isinstance(image, dict):
        image = list(cast("dict[str, object]", image).values())
    paths = cast("list[object]", image) if isinstance(image, list) else [image]
    known = {os.path.basename(path) for path in paths if isinstance(path, str)}
    talk = fields.get("conversations")
    for message in cast("list[object]", talk) if isinstance(talk, list) else []:
        if isinstance(message, dict):
            content = cast("dict[str, object]", message).get("content")
            known |= {content.strip(), content.replace("<image>", "").strip()} if isinstance(content, str) else set()
    texts = [text.strip() for text in texts_in(value)]
    return (
        bool(texts)
        and not holds_numbers(value)
        and all(text in known or os.path.basename(text) in known for text in texts)
    )
