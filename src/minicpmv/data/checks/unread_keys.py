"""Reports each key that nothing reads, once per file, and decides which of them would change what is learnt.

A key matters by its content: a picture, sound or video, boxes, a number or boolean next to an answer, a boolean of the
record, a long text. Then it is a problem of every record that has it; otherwise a notice. The meaning of keys in other
tools is in ``other_tools.foreign_keys``.
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

from minicpmv.data.checks.film_values import film_places
from minicpmv.data.checks.key_values import (
    are_points,
    find_boxes,
    find_media,
    holds_numbers,
    is_number,
    leaves_of,
    texts_in,
)
from minicpmv.data.checks.other_tools.foreign_keys import HARMLESS, SWITCHES, is_part_of_the_talk, meaning_of
from minicpmv.data.records.record import RawRecord, Unread, quote
from minicpmv.errors import Problem

__all__ = ["UnreadKeys"]

_LONG = 100
"""Fewest characters of a text that is more than a label."""
_LONG_BESIDE_AN_ANSWER = 3
"""Fewest words of such a text next to an answer: it may be part of what should be learnt."""
_SIZES = re.compile("size|shape|wh$|resolution|dim")
"""Names of pairs of numbers that are not points."""
_HARMLESS_ENDINGS = ("_ids", *(f"_{name}" for name in HARMLESS))
_WEIGHING = re.compile(
    r"(?:^|[_-])(?:weight|weights|loss|mask|masked|ignore|ignored|skip|skipped|exclude|excluded|drop|keep|use|train|learn)"
    r"(?:$|[_-])"
)
"""Words in keys whose number states whether, or how much, a record counts."""
_TRUTH = re.compile(r"true|false|yes|no", re.IGNORECASE)
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?", re.IGNORECASE)
_MOST_NAMES = 100
"""Most keys of one level of a file that are named one by one; more are probably generated names."""
_SHOWN = {
    "record": "",
    "message": "messages: ",
    "answer": "messages: ",
    "part": "parts: ",
    "image": "images: ",
    "film": "films: ",
    "objects": "objects: ",
}


@dataclass(slots=True)
class _Kind:
    """Counts one key of one file, at one level."""

    first: tuple[int, RawRecord, Unread]
    count: int = 0
    serious: tuple[int, RawRecord, Unread, str] | None = None
    """First occurrence that matters, and why."""
    is_picture: bool = False
    is_rest: bool = False
    """Whether it represents all keys after the first hundred."""
    positions: array[int] = field(default_factory=lambda: array("q"))
    """Positions of the records in which it matters."""
    looked_up: set[str] = field(default_factory=set[str])

    def join(self, later: _Kind) -> None:
        """Count the same key of later records, too."""
        self.count += later.count
        if self.serious is None:
            self.serious, self.is_picture = later.serious, later.is_picture
        self.positions.extend(later.positions)

    def times(self) -> str:
        """Word how often it occurs."""
        if self.is_rest:
            return f" (and, behind {_MOST_NAMES} that are named, {self.count:,} such places in this file)"
        return _times(self.count)


class UnreadKeys:
    """Collects the keys of records that nothing reads.

    Args:
        ignored: Keys that the user has chosen to leave out.
    """

    def __init__(self, ignored: Iterable[str] = ()) -> None:
        self._ignored = frozenset(ignored)
        self._kinds: dict[tuple[str, str, str], _Kind] = {}
        self._names: set[str] = set()
        self._num_names: dict[tuple[str, str], int] = {}
        self._readings: dict[tuple[str, str], list[int | RawRecord]] = {}

    def add(self, record: RawRecord, position: int, root: str) -> None:
        """Add a record.

        Args:
            record: As read.
            position: Position of the record in the results.
            root: Folder where its relative paths start.
        """
        if record.reading:
            seen = self._readings.setdefault((record.source, record.reading), [position, record, 0])
            seen[2] = cast("int", seen[2]) + 1
        for each in record.unread:
            if each.key in self._ignored:
                self._names.add(_SHOWN[each.level] + each.key)
                continue
            kind = self._kind_of(record, each, position)
            kind.count += 1
            why = _weigh(each, record, root, kind)
            if why is None:
                continue
            if kind.serious is None:
                kind.serious, kind.is_picture = (position, record, each, why), why.startswith("a picture")
            if not kind.positions or kind.positions[-1] != position:
                kind.positions.append(position)

    def _kind_of(self, record: RawRecord, each: Unread, position: int) -> _Kind:
        """Return the entry of a key; all keys of a level after the first hundred share one."""
        kind = self._kinds.get((record.source, each.level, each.key))
        if kind is None:
            level = (record.source, each.level)
            number = self._num_names[level] = self._num_names.get(level, 0) + 1
            name = (*level, each.key if number <= _MOST_NAMES else "")
            kind = self._kinds.get(name)
            if kind is None:
                kind = self._kinds[name] = _Kind((position, record, each), is_rest=number > _MOST_NAMES)
        return kind

    def join(self, later: UnreadKeys) -> None:
        """Add the keys that others have collected from later records.

        Where a level has more than a hundred keys, those that count as the rest may be others than one collector's.
        """
        self._names |= later._names
        for (source, level, key), kind in later._kinds.items():
            known = self._kinds.get((source, level, key))
            if known is None and not kind.is_rest:
                number = self._num_names[source, level] = self._num_names.get((source, level), 0) + 1
                if number > _MOST_NAMES:
                    kind.is_rest, key = True, ""
                    known = self._kinds.get((source, level, ""))
            if known is None:
                self._kinds[source, level, key] = kind
            else:
                known.join(kind)
        for name, (position, record, count) in later._readings.items():
            seen = self._readings.setdefault(name, [position, record, 0])
            seen[2] = cast("int", seen[2]) + cast("int", count)

    def problems(self) -> Iterator[tuple[NDArray[np.int64], Problem]]:
        """Yield a problem for each key that matters, with the positions of all records in which it does."""
        for kind in self._kinds.values():
            if kind.serious is None:
                continue
            _, record, each, why = kind.serious
            where, found = _where(record, each), f"the key {each.key!r}, which nothing reads{kind.times()}: {why}"
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
                found = f"the key {each.key!r}{kind.times()}: {quote(each.value)}"
                meaning = meaning_of(each.key, each.value)
                said = f"; elsewhere it is {meaning.means}" if meaning else ""
                expected = f"keys that are read here; it is ignored{said}"
                fix = meaning.fix if meaning else "nothing, unless it was meant to be read"
                yield position, Problem("D320", _where(record, each), found, expected, fix, "notice")

    def names(self) -> list[str]:
        """Return the keys in alphabetical order, with the level of those inside a record."""
        names = self._names.copy()
        for (_, level, key), kind in self._kinds.items():
            names.add(_SHOWN[level] + (f"{kind.count:,} of other names" if kind.is_rest else key))
        return sorted(names)


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
        return "name the picture under 'image' of the record, with <image> where it belongs"
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
    told = told or _find_judgement(each)
    if told is None and _may_be_said(each, record) and not _is_said(value, record):
        told = f"a text: {quote(value)}"
    return None if told is None or _is_known(value, record) else told


def _says_nothing(value: object) -> bool:
    return isinstance(value, str) and value.strip().lower() in ("[]", "{}", "null", "none")


def _describes(key: str) -> bool:
    """Return whether a key describes a record, not the conversation."""
    return key.lower() in HARMLESS or key.lower().endswith(_HARMLESS_ENDINGS)


def _find_judgement(each: Unread) -> str | None:
    """Describe a value that may qualify an answer, or return None."""
    value = each.value
    if _describes(each.key) or (value is False and each.key in SWITCHES):
        return None
    leaves = list(leaves_of(value))
    told = "a number next to an answer" if each.level == "answer" else "a number"
    if each.level in ("record", "answer"):
        if any(isinstance(leaf, bool) or _is_text(leaf, _TRUTH) for leaf in leaves):
            return f"the boolean {str(value).lower()}" if isinstance(value, bool) else f"booleans: {quote(value)}"
        is_weighed = each.level == "answer" or _WEIGHING.search(each.key.lower())
        if is_weighed and any(is_number(leaf) or _is_text(leaf, _NUMBER) for leaf in leaves):
            return f"{told}: {quote(value)}"
    if each.level in ("objects", "film") and any(is_number(leaf) or _is_text(leaf, _NUMBER) for leaf in leaves):
        return f"a number next to {'boxes' if each.level == 'objects' else 'a film'}: {quote(value)}"
    return None


def _is_text(leaf: object, words: re.Pattern[str]) -> bool:
    return isinstance(leaf, str) and words.fullmatch(leaf.strip()) is not None


def _may_be_said(each: Unread, record: RawRecord) -> bool:
    """Return whether a value may be a part of the conversation.

    It is a long text, or one under a key that holds such parts in other tools. In addition to a question and an answer,
    which have their own keys, any text may be one.
    """
    if is_part_of_the_talk(each.key):
        return any(text.strip() for text in texts_in(each.value))
    if _describes(each.key):
        return False
    of_any_length = record.reading and each.level == "record"
    return any(text.strip() and (of_any_length or _is_long(text, each.level)) for text in texts_in(each.value))


def _is_long(text: str, level: str) -> bool:
    if re.fullmatch(r"\w+://\S+", text):
        return False
    return len(text) > _LONG or (
        level == "answer" and len(text.split(None, _LONG_BESIDE_AN_ANSWER)) >= _LONG_BESIDE_AN_ANSWER
    )


def _texts_of(record: RawRecord) -> list[str]:
    """Return the texts of a record's messages, without placeholders."""
    return [content.replace("<image>", "").strip() for _, _, content in record.messages("conversations")]


def _is_said(value: object, record: RawRecord) -> bool:
    """Return whether the messages contain each text of a value, in whole words, or its one text contains them all."""
    said, texts = _texts_of(record), [text.strip() for text in texts_in(value) if text.strip()]
    if len(texts) == 1 and said and all(text in texts[0] for text in said):
        return True
    return all(any(re.search(rf"(?<!\w){re.escape(text)}(?!\w)", content) for content in said) for text in texts)


def _is_known(value: object, record: RawRecord) -> bool:
    """Return whether a record holds the same in a key that is read: then nothing is lost.

    Pictures are compared by file name, and in a record with pictures an address is taken for their source.
    """
    fields = cast("dict[str, object]", record.value) if isinstance(record.value, dict) else {}
    image = fields.get("image")
    if image and isinstance(value, str) and re.match(r"https?://\S+$", value):
        return True  # the source of the picture
    texts = [text.strip() for text in texts_in(value)]
    if not texts or holds_numbers(value):
        return False
    if isinstance(image, dict):
        image = list(cast("dict[str, object]", image).values())
    paths = cast("list[object]", image) if isinstance(image, list) else [image]
    films = [path for _, film in film_places(fields.get("video")) for path in texts_in(film)]
    known = {os.path.basename(path) for path in (*paths, *films) if isinstance(path, str)}.union(_texts_of(record))
    return all(text in known or os.path.basename(text) in known for text in texts)
