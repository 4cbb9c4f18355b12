"""Defines records: as read from a file, and as used in training.

Nothing is read or judged here; ``reading`` makes raw records, ``checking`` judges them, ``loading`` turns the sound
ones into records.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, cast

from minicpmv.errors import Problem
from minicpmv.processing.films.facts import FilmFacts
from minicpmv.processing.films.plan import FilmPlan
from minicpmv.processing.films.request import FilmRequest
from minicpmv.processing.text.turns import Turn
from minicpmv.wording import name_few

__all__ = [
    "OWN_NAMES",
    "SHOWN",
    "FieldNames",
    "Film",
    "Kind",
    "Level",
    "RawRecord",
    "Record",
    "Unread",
    "place",
    "quote",
]

Level = Literal["record", "message", "answer", "part", "image", "film", "objects"]
"""Level of a key: an answer is a message of the assistant, an image or film the struct of one."""

Kind = Literal["conversation", "pair", "answer"]
"""Purpose of a record in a run: learn its answers, tell the last one from a worse one, or learn whether it is good."""

SHOWN = ("image", "images", "video", "videos")
"""Keys of a record that hold its pictures and films."""

_MAX_QUOTED = 60
"""Most characters of a user's value that a message repeats."""


def quote(value: object) -> str:
    """Quote a user's value for a message, on one line and shortened."""
    text = repr(value)
    return text if len(text) <= _MAX_QUOTED else f"{text[: _MAX_QUOTED - 4]} ..."


def place(source: str, *, line: int | None, index: int, record_id: object, field: str = "") -> str:
    """Name one record, or one field of it, for messages: ``train.json:120 record 7 (id 'a7') conversations[1].role``.

    Records and messages are counted from 0, so that the name can be pasted into Python; lines from 1, as in editors.
    """
    line_part = "" if line is None else f":{line}"
    id_part = "" if record_id is None else f" (id {quote(record_id)})"
    return f"{source}{line_part} record {index}{id_part} {field}".rstrip()


@dataclass(frozen=True, kw_only=True, slots=True)
class FieldNames:
    """Holds the names of ``conversations``, ``role``, ``content`` and ``image`` in a record's own style.

    Everything is judged in one form; messages use the user's field names.
    """

    conversations: str = "conversations"
    role: str = "role"
    content: str = "content"
    image: str = "image"
    video: str = "video"
    parts: tuple[str, ...] = ()
    """Fields of images that are parts of messages: ``messages[0].content[1].image_url.url``."""
    film_parts: tuple[str, ...] = ()
    """The same of films."""
    texts: tuple[str, ...] = ()
    """Field of each message's text, if not all of them are in one list: ``("system", "question")``."""

    def written(self, field: str) -> str:
        """Translate a field of our form to the user's name.

        >>> FieldNames(content="value", conversations="talk").written("conversations[0].content")
        'talk[0].value'
        """
        for name, theirs, parts in (("image", self.image, self.parts), ("video", self.video, self.film_parts)):
            if not field.startswith(name):
                continue
            match = re.match(rf"{name}\[(\d+)\]", field)
            if match and int(match[1]) < len(parts):
                return parts[int(match[1])] + field[match.end() :]
            return theirs + field.removeprefix(name)
        if not field.startswith("conversations"):
            return field
        if self.texts and (match := re.match(r"conversations\[(\d+)\]", field)):
            text, rest = self.texts[int(match[1])], field[match.end() :]
            message = text.removesuffix(f".{self.content}")
            return text if message == text or rest == ".content" else message + rest.replace(".role", f".{self.role}")
        field = self.conversations + field.removeprefix("conversations")
        for ours, theirs in (("role", self.role), ("content", self.content)):
            if field.endswith(f"].{ours}"):
                return field.removesuffix(ours) + theirs
        return field


OWN_NAMES = FieldNames()


@dataclass(frozen=True, slots=True)
class Unread:
    """Describes a key of a record, or of a value in it, that nothing here reads."""

    level: Level
    place: str
    """Field that contains it, as the user wrote it; empty for the record."""
    key: str
    value: object


@dataclass(frozen=True, kw_only=True, slots=True)
class RawRecord:
    """Holds one entry of a data file, converted to our form but not judged."""

    source: str
    """The file, as the user wrote it."""
    index: int
    """Position in the file, from 0."""
    line: int | None
    """Line on which the record begins, from 1; None if unknown (JSON5) or without lines."""
    value: object
    """Value as read, with embedded images as bytes. Only ``checking`` makes sure that its shape is valid."""
    names: FieldNames = OWN_NAMES
    """Names of its fields in the file."""
    faults: tuple[Problem, ...] = ()
    """Problems that kept it from being read or converted. If there are any, ``value`` is incomplete."""
    unread: tuple[Unread, ...] = ()
    """Keys of the record that no reader took, and so are not in ``value``. Null counts as absent."""
    is_row: bool = False
    """Whether it is a row of a table, whose keys are the names of columns."""
    empty: tuple[str, ...] = ()
    """Columns whose cell is empty in this row, which are not in ``value``."""
    reading: str = ""
    """Interpretation of a record without messages: ``'instruction' and 'input' as the question``."""

    def where(self, field: str = "") -> str:
        """Name this record, or one field of it."""
        return self.where_written(self.names.written(field))

    def where_written(self, key: str) -> str:
        """Name a key of this record as the user wrote it, such as a column."""
        record_id = cast("dict[str, object]", self.value).get("id") if isinstance(self.value, dict) else None
        return place(self.source, line=self.line, index=self.index, record_id=record_id, field=key)

    def messages(self, *keys: str) -> Iterator[tuple[str, object, str]]:
        """Yield field, role and text of every message that has a text, sound or not.

        Args:
            *keys: The fields that hold them; by default the conversation and the worse answer.
        """
        fields = cast("dict[str, object]", self.value) if isinstance(self.value, dict) else {}
        for key in keys or ("conversations", "rejected"):
            messages = fields.get(key)
            for number, message in enumerate(cast("list[object]", messages) if isinstance(messages, list) else []):
                parts = cast("dict[str, object]", message) if isinstance(message, dict) else {}
                content = parts.get("content")
                if isinstance(content, str):
                    yield f"{key}[{number}]", parts.get("role"), content


@dataclass(frozen=True, kw_only=True, slots=True)
class Film:
    """Names one film of one record."""

    source: str | tuple[str, ...]
    """Path of a film file, an animation or a folder of frames; or the paths of its frames in order."""
    request: FilmRequest = field(default_factory=FilmRequest)
    """Which of its frames are asked for; ``checks`` make sure that it has no fault."""

    @property
    def name(self) -> str:
        """The name in messages: its path, or that of its first frame and how many follow."""
        if isinstance(self.source, str):
            return self.source
        return name_few(self.source, most=1) if self.source else "an empty list of pictures"


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """Holds one sound conversation with its images and films."""

    source: str
    """The file it came from, as the user wrote it."""
    index: int
    """Position in that file, from 0."""
    line: int | None = None
    """Line on which it begins, from 1; None if unknown."""
    id: str | int | None = None
    """Id as written; None if the record has none."""
    images: tuple[str | bytes, ...] = ()
    """Paths to open, or the bytes of embedded image files, in the order of the turns."""
    image_sizes: tuple[tuple[int, int], ...] | None = None
    """Size in pixels, (width, height), of each image; None if not read yet."""
    films: tuple[Film, ...] = ()
    """Films to open, in the order of the turns."""
    film_facts: tuple[FilmFacts, ...] | None = None
    """Facts that the header of each film states; None if not read yet."""
    film_plans: tuple[FilmPlan, ...] | None = None
    """Frames to show of each film; None: as its release chooses them."""
    turns: tuple[Turn, ...]
    """The conversation; ``ImageRef(i)`` in a turn is ``images[i]``, ``FilmRef(i)`` is ``films[i]``."""
    references: tuple[str, ...] = ()
    """Accepted alternatives to the last answer, if the record lists any. Training does not read them."""
    rejected: tuple[Turn, ...] = ()
    """Turns that stand instead of the last answer and are worse, ending in an answer; none if there is no worse one."""
    desirable: bool | None = None
    """Whether the last answer is good, where answers are judged one by one."""

    @property
    def kind(self) -> Kind:
        """The kind of learning that this record allows."""
        if self.rejected:
            return "pair"
        return "conversation" if self.desirable is None else "answer"

    def where(self, field: str = "") -> str:
        """Name this record, or one field of it."""
        return place(self.source, line=self.line, index=self.index, record_id=self.id, field=field)
