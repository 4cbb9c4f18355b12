"""Makes an example of a record: its first question with its files, and the answer that was expected.

A visitor names a record by its number and nothing else. Only that record's own files are copied to where the page's
uploads are, so no other file becomes readable.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gradio.processing_utils import save_bytes_to_cache, save_file_to_cache

from minicpmv.data.records.inline_images import image_kind, is_embedded, read_embedded
from minicpmv.data.records.record import Film, Record
from minicpmv.errors import UsageError
from minicpmv.processing.films.request import FilmRequest
from minicpmv.processing.text.thinking import without_thinking
from minicpmv.processing.text.turns import FilmRef, ImageRef, Turn
from minicpmv.ui.uploads import is_film

__all__ = ["Example", "Examples"]

_MOST_DIGITS = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """Holds what a record asks first, and what it expects."""

    number: int
    """Position in the data, from 0, as in messages of ``minicpmv check``."""
    name: str
    """The record's id, or its file if it has none."""
    question: str
    files: tuple[str, ...]
    """Copies of its pictures and then its films, among the uploads."""
    requests: Mapping[str, FilmRequest]
    """Which frames are asked of each film."""
    system: str | None
    expected: tuple[str, ...]
    """Accepted answers, without thoughts; none if the record ends with its question."""
    remarks: tuple[str, ...]
    """Sentences on what is asked here otherwise than in the record."""

    def is_asked(self, question: str, files: Sequence[str]) -> bool:
        """Return whether this is what somebody asks: the same text and files."""
        return question.strip() == self.question.strip() and tuple(files) == self.files


class Examples:
    """Holds the records of some data.

    Args:
        records: Sound records.
        source: Their file, as the user wrote it.
        folder: Folder of the uploads.
    """

    def __init__(self, records: Sequence[Record], *, source: str, folder: str) -> None:
        self._records, self._folder = records, folder
        self.source = source

    def __len__(self) -> int:
        return len(self._records)

    def read_number(self, typed: object) -> int:
        """Read the number of a record, which may be too large.

        Raises:
            UsageError: It is no whole number.
        """
        text = typed.strip() if isinstance(typed, str) else ""
        if not text.isdecimal() or len(text) > _MOST_DIGITS:
            raise UsageError(
                f"record: found something else, expected a number from 0 to {len(self) - 1}\n  fix: type one of these"
            )
        return int(text)

    def open(self, number: int) -> Example:
        """Copy the files of one record, and return it as an example.

        Raises:
            UsageError: There is no such record, it cannot be asked here, or its files cannot be read.
        """
        if not 0 <= number < len(self):
            raise UsageError(
                f"record: found another number, expected one from 0 to {len(self) - 1}\n  fix: choose one of these"
            )
        record = self._records[number]
        asked = next(place for place, turn in enumerate(record.turns) if turn.role == "user")
        turn = record.turns[asked]
        films = [record.films[part.index] for part in turn.content if isinstance(part, FilmRef)]
        try:
            images = [self._copy(record.images[part.index]) for part in turn.content if isinstance(part, ImageRef)]
            copied = [self._copy(_file_of(film, record)) for film in films]
        except OSError as error:
            raise UsageError(
                f"{record.where()}: found it impossible to read its files ({error.strerror}), expected those that were "
                "there at the start\n  fix: put them back, or start the page again"
            ) from error
        system = record.turns[0] if record.turns[0].role == "system" else None
        return Example(
            number=number,
            name=Path(record.source).name if record.id is None else str(record.id),
            question=turn.text,
            files=(*images, *copied),
            requests={path: film.request for path, film in zip(copied, films, strict=True)},
            system=None if system is None else system.text or None,
            expected=tuple(map(without_thinking, _expected(record, asked))),
            remarks=tuple(_remarks(record, turn)),
        )

    def _copy(self, source: str | bytes) -> str:
        """Copy a file as Gradio copies an upload, so that the page names it by the same path afterwards."""
        if is_embedded(source):
            content = read_embedded(source)
            return save_bytes_to_cache(content, f"embedded.{image_kind(content)}", self._folder)
        assert isinstance(source, str), "bytes are embedded"
        return save_file_to_cache(source, self._folder)


def _file_of(film: Film, record: Record) -> str:
    if isinstance(film.source, str) and is_film(film.source) and Path(film.source).is_file():
        return film.source
    raise UsageError(
        f"{record.where()}: found a film of single frames or an animation, expected a film file, as this page takes "
        "no other\n  fix: ask with minicpmv predict, or choose another record"
    )


def _expected(record: Record, asked: int) -> tuple[str, ...]:
    answer = asked + 1
    if answer >= len(record.turns) or record.turns[answer].role != "assistant":
        return ()
    is_last = answer == len(record.turns) - 1
    return (is_last and record.references) or (record.turns[answer].spoken,)


def _remarks(record: Record, asked: Turn) -> Iterator[str]:
    kinds = [0 if isinstance(part, ImageRef) else 1 if isinstance(part, FilmRef) else 2 for part in asked.content]
    if kinds != sorted(kinds):
        yield "Its pictures and films stand elsewhere in its question; here they come first."
    if any(turn.tools for turn in record.turns):
        yield "Its tools are left out: this page takes none."
    if sum(turn.role == "user" for turn in record.turns) > 1:
        yield "Only the first of its questions is asked."
