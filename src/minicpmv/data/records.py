"""What a record is: as a file holds it, and as training takes it.

Nothing is read or judged here; ``reading`` makes raw records, ``checking`` judges them, ``loading`` turns the good ones
into records.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from minicpmv.processing.chat import Turn

__all__ = ["RawRecord", "Record", "place", "quote"]

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
class RawRecord:
    """One entry of a data file, parsed but not judged."""

    source: str
    """The file, as the user wrote it."""
    index: int
    """Position in the file, from 0."""
    line: int | None
    """Line on which the record begins, from 1; None where the reader cannot tell (JSON5)."""
    value: object
    """Whatever stands there; only ``checking`` makes sure that it is a dict of the right shape."""

    def where(self, field: str = "") -> str:
        """Name this record, or one field of it."""
        record_id = cast("dict[str, object]", self.value).get("id") if isinstance(self.value, dict) else None
        return place(self.source, line=self.line, index=self.index, record_id=record_id, field=field)


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
    images: tuple[str, ...] = ()
    """Paths that can be opened as they stand, in the order in which the turns show the images."""
    image_sizes: tuple[tuple[int, int], ...] | None = None
    """Pixels, (width, height) of each image; None if nobody has looked yet."""
    turns: tuple[Turn, ...]
    """The conversation; ``ImageRef(i)`` in a turn is ``images[i]``."""

    def where(self, field: str = "") -> str:
        """Name this record, or one field of it."""
        return place(self.source, line=self.line, index=self.index, record_id=self.id, field=field)
