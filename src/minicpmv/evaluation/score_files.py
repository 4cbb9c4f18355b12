"""Reads and writes files of answers, with a line of JSON for each record and its scores."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from minicpmv.data.records.answers import LAST, Share
from minicpmv.data.records.record import quote
from minicpmv.errors import UsageError
from minicpmv.evaluation.metrics.base import Sample
from minicpmv.files.atomic_files import replacing
from minicpmv.files.places import Recognised
from minicpmv.processing.text.thinking import without_thinking
from minicpmv.terminal.streams import advise

__all__ = ["SCORED_ANSWERS", "Answered", "ShareOfFile", "make_sample", "open_replacing", "read_answers", "write_line"]

_LONGEST_LINE = 2**24
"""Bytes of a first line that is looked at."""


def _is_scored(file: BinaryIO) -> bool:
    try:
        fields: Any = json.loads(file.readline(_LONGEST_LINE))
    except (ValueError, RecursionError):
        return False
    if not isinstance(fields, dict) or not isinstance(fields.get("scores"), dict):
        return False
    return isinstance(fields.get("answer"), str) or isinstance(fields.get("nats"), int | float)


SCORED_ANSWERS = Recognised("answers with their scores, as `minicpmv eval --output` writes them", _is_scored)
"""Recognises the files of ``write_line`` by their first line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answered:
    """Holds one line of a file."""

    where: str
    key: str | int
    """Key by which two files are matched: the id, or the position if it has none, or both if others have its id; with
    the answer's number where the file has that."""
    fields: Mapping[str, Any]
    sample: Sample


def read_answers(path: str) -> Iterator[Answered]:
    """Yield the lines of a file that ``minicpmv predict`` or ``minicpmv eval --output`` wrote.

    Raises:
        UsageError: The file does not exist or is empty, a line is not of that kind, or repeats the record of an earlier
            line.
    """
    position = 0
    seen: set[str | int] = set()
    try:
        repeated = _find_repeated(path)
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    answered = _read(line, where=f"{path}:{number}", position=position, repeated=repeated)
                    if answered.key in seen:
                        raise UsageError(
                            f"{answered.where}: found record {answered.key!r} again, expected each record once\n"
                            "  fix: remove one of the lines; if they belong to two records, write the position of each "
                            "under 'index'"
                        )
                    seen.add(answered.key)
                    yield answered
                    position += 1
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise UsageError(
            f"{path}: found no file of answers that can be read ({reason}), expected what `minicpmv predict` or "
            "`minicpmv eval --output` wrote\n  fix: name such a file, or write one: minicpmv predict MODEL DATA "
            "--output answers.jsonl"
        ) from error
    if not position:
        raise UsageError(f"{path}: found no line, expected one for each record\n  fix: name another file")


class ShareOfFile:
    """Counts the answers in a file, and all answers of their records.

    Args:
        which: The answer of each record that a line holds, unless the line states it.
    """

    def __init__(self, which: str = LAST) -> None:
        self._which = which
        self._asked = self._of = 0
        self._seen: set[object] = set()
        """Records whose lines state the answer's number."""

    def add(self, fields: Mapping[str, Any]) -> None:
        """Take in a line."""
        self._asked += 1
        record = fields.get("index") if "turn" in fields else None
        if record is None or record not in self._seen:
            of_answers = fields.get("of_answers")
            self._of += of_answers if isinstance(of_answers, int) else 1
            self._seen |= set() if record is None else {record}

    def share(self) -> Share:
        """Return the counts. A file does not state how many answers have weight 0."""
        return Share(asked=self._asked, of=self._of, which="" if self._seen else self._which)


def make_sample(
    *,
    question: str,
    answer: str,
    references: tuple[str, ...],
    nats: float | None = None,
    weight: float | None = None,
) -> Sample:
    """Make a sample from raw texts, leaving out thoughts and surrounding white space."""
    said = tuple(without_thinking(text) for text in (answer, *references))
    return Sample(question=question, answer=said[0], references=said[1:], nats=nats, weight=weight)


def write_line(file: BinaryIO, fields: Mapping[str, Any]) -> None:
    """Write one record's line."""
    file.write(json.dumps(fields, ensure_ascii=False).encode() + b"\n")


def open_replacing(path: str) -> AbstractContextManager[BinaryIO]:
    """Open a file for writing that appears under its name only when it is complete.

    Raises:
        UsageError: Its folder cannot be written.
    """

    def refused(error: OSError) -> UsageError:
        fix = advise(error, otherwise="name a file that you may write")
        return UsageError(f"--output {path!r}: found {error.strerror}, expected to write it\n  fix: {fix}")

    return replacing(Path(path), refused=refused)


def _find_repeated(path: str) -> set[object]:
    """Return the ids that several lines share, which do not identify a record."""
    seen: set[object] = set()
    repeated: set[object] = set()
    with open(path, encoding="utf-8") as file:
        for line in file:
            try:
                fields: Any = json.loads(line) if line.strip() else None
            except ValueError:  # reported when that line is read
                continue
            key = fields.get("id") if isinstance(fields, dict) else None
            if isinstance(key, str | int):
                (repeated if key in seen else seen).add(key)
    return repeated


def _read(line: str, *, where: str, position: int, repeated: set[object]) -> Answered:
    try:
        fields: Any = json.loads(line)
    except ValueError as error:
        raise UsageError(
            f"{where}: found a line that is not JSON ({error}), expected one object per line\n"
            "  fix: name a file of answers, or make this one again"
        ) from error
    answer = fields.get("answer") if isinstance(fields, dict) else None
    has_loss = isinstance(fields, dict) and isinstance(fields.get("nats"), int | float)
    if not isinstance(answer, str) and not has_loss:
        raise UsageError(
            f"{where}: found {quote(answer)} for the answer, expected text under the key 'answer'\n"
            "  fix: name a file that `minicpmv predict` or `minicpmv eval --output` wrote"
        )
    index = fields.get("index")
    key = fields.get("id")
    if key is None:
        key = index if isinstance(index, int) else position
    elif isinstance(index, int) and isinstance(key, str | int) and key in repeated:
        key = f"{key} (record {index})"
    if isinstance(fields.get("turn"), int):
        key = f"{key} (answer {fields['turn']})"
    return Answered(where=where, key=key, fields=fields, sample=_sample(fields, where))


def _sample(fields: Mapping[str, Any], where: str) -> Sample:
    references = fields.get("references")
    if references is None:
        references = [] if fields.get("reference") is None else [fields["reference"]]
    if not isinstance(references, list) or not all(isinstance(reference, str) for reference in references):
        raise UsageError(
            f"{where}: found {quote(references)} for the references, expected texts: a list under 'references' or one "
            "under 'reference'\n  fix: write texts"
        )
    return make_sample(
        question=str(fields.get("question", "")),
        answer=fields.get("answer") or "",
        references=tuple(references),
        nats=fields.get("nats"),
        weight=fields.get("weight"),
    )
