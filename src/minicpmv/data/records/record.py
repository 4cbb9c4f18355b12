"""What a record is: as it was read, and as training takes it.

Nothing is read or judged here; ``reading`` makes raw records, ``checking`` judges them, ``loading`` turns the good ones
into records.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, cast

from minicpmv.errors import Problem
from minicpmv.processing.text.chat import Turn

__all__ = ["OWN_NAMES", "FieldNames", "Level", "RawRecord", "Record", "Unread", "place", "quote"]

Level = Literal["record", "message", "answer", "part", "image", "objects"]
"""What holds a key: an answer is a message of the assistant, an image the struct of one."""

_MAX_QUOTED = 60
"""Characters of a user's value that a message repeats."""


def quote(value: object) -> str:
    """Repeat a user's value in a message, on one line and not at full length."""
    text = repr(value)
    return text if len(text) <= _MAX_QUOTED else f"{text[: _MAX_QUOTED - 4]} ..."


def place(source: str, *, line: int | None, index: int, record_id: object, field: str = "") -> str:
    """Name one record, or one field of it, as messages do: ``train.json:120 record 7 (id 'a7') conversations[1].role``.

    Records and messages are counted from 0, so that the words can be pasted into Python; lines from 1, as editors do.
    """
    line_part = "" if line is None else f":{line}"
    id_part = "" if record_id is None else f" (id {quote(record_id)})"
    return f"{source}{line_part} record {index}{id_part} {field}".rstrip()


@dataclass(frozen=True, kw_only=True, slots=True)
class FieldNames:
    """How a record's own style calls what is ``conversations``, ``role``, ``content`` and ``image`` in ours.

    Everything is judged in one form; messages name the fields as the user wrote them.
    """

    conversations: str = "conversations"
    role: str = "role"
    content: str = "content"
    image: str = "image"
    parts: tuple[str, ...] = ()
    """Where images stand that are parts of messages: ``messages[0].content[1].image_url.url``."""
    texts: tuple[str, ...] = ()
    """Where the text of each message stands, if not all of them are in one list: ``("system", "question")``."""

    def written(self, field: str) -> str:
        """Translate a field of our form.

        >>> FieldNames(content="value", conversations="talk").written("conversations[0].content")
        'talk[0].value'
        """
        if field.startswith("image"):
            match = re.fullmatch(r"image\[(\d+)\]", field)
            if match and int(match[1]) < len(self.parts):
                return self.parts[int(match[1])]
            return self.image + field.removeprefix("image")
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
    """A key of a record, or of something in it, that nothing here reads."""

    level: Level
    place: str
    """The field that holds it, as the user wrote it; empty for the record."""
    key: str
    value: object


@dataclass(frozen=True, kw_only=True, slots=True)
class RawRecord:
    """One entry of a data file, brought into our form but not judged."""

    source: str
    """The file, as the user wrote it."""
    index: int
    """Position in the file, from 0."""
    line: int | None
    """Line on which the record begins, from 1; None where the reader cannot tell (JSON5) or there are no lines."""
    value: object
    """Whatever was read of it, with embedded images as bytes. Only ``checking`` makes sure that its shape is right."""
    names: FieldNames = OWN_NAMES
    """What its fields are called in the file."""
    faults: tuple[Problem, ...] = ()
    """What kept it from being read, or from being brought into our form. If there are any, ``value`` says little."""
    unread: tuple[Unread, ...] = ()
    """All that stands in the record and is not in ``value``: what no reader took. Null counts as left out."""
    reading: str = ""
    """How a record without messages was read: ``'instruction' and 'input' as the question``."""

    def where(self, field: str = "") -> str:
        """Name this record, or one field of it."""
        record_id = cast("dict[str, object]", self.value).get("id") if isinstance(self.value, dict) else None
        written = self.names.written(field)
        return place(self.source, line=self.line, index=self.index, record_id=record_id, field=written)


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One conversation with its images, known to be sound."""

    source: str
    """The file it came from, as the user wrote it."""
    index: int
    """Position in that file, from 0."""
    line: int | None = None
    """Line on which it begins, from 1; None where unknown."""
    id: str | int | None = None
    """As written; None if the record has none."""
    images: tuple[str | bytes, ...] = ()
    """Paths that can be opened as they stand, or the bytes of embedded image files, in the order of the turns."""
    image_sizes: tuple[tuple[int, int], ...] | None = None
    """Pixels, (width, height) of each image; None if nobody has looked yet."""
    turns: tuple[Turn, ...]
    """The conversation; ``ImageRef(i)`` in a turn is ``images[i]``."""
    references: tuple[str, ...] = ()
    """What evaluation accepts in place of the last answer, if the record says so. Training does not read it."""

    def where(self, field: str = "") -> str:
        """Name this record, or one field of it."""
        return place(self.source, line=self.line, index=self.index, record_id=self.id, field=field)
