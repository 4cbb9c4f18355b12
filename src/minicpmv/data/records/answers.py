"""Decides which answers of a record a model is asked for, and counts them.

An answer of weight 0 is context, as in training: it is never asked for. A question at the end of a record is asked,
too, though its answer is not known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from minicpmv.data.records.record import Record
from minicpmv.data.records.sequences import LazySequence
from minicpmv.errors import UsageError

__all__ = ["FIRST", "LAST", "Answers", "Draws", "Share", "cut_before", "find_answers"]

LAST = "the last one of each record"
FIRST = "the first one of each record"


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """Counts the answers that are asked for, among all candidates."""

    asked: int
    of: int
    """All answers except those of weight 0."""
    of_weight_0: int = 0
    """Answers that are only context; 0 if they were not counted."""
    which: str = ""
    """Which answers are asked for, in words."""

    def __str__(self) -> str:
        """Word the share in one line; empty if every answer is asked for and none is context.

        >>> print(Share(asked=14, of=26, of_weight_0=2, which=LAST))
        14 of 26 answers: the last one of each record (2 more have weight 0 and are only read)
        """
        if not (self.of_weight_0 or self.asked < self.of):
            return ""
        which = f": {self.which}" if self.which and self.asked < self.of else ""
        read = f" ({self.of_weight_0:,} more have weight 0 and are only read)" if self.of_weight_0 else ""
        return f"{self.asked:,} of {self.of:,} answers{which}{read}"


def find_answers(record: Record) -> list[int]:
    """Return the positions of answers that can be asked for: those above weight 0, and after a question at the end."""
    places = [place for place, turn in enumerate(record.turns) if turn.role == "assistant" and turn.weight]
    return places if record.turns[-1].role == "assistant" else [*places, len(record.turns)]


def cut_before(record: Record, place: int) -> Record:
    """Return a record that ends with the answer at this position.

    Its ``references`` belong to the last answer, and are dropped for any other.
    """
    if place >= len(record.turns) - 1:
        return record
    return replace(record, turns=record.turns[: place + 1], references=())


class Answers(LazySequence[Record]):
    """Holds records that end with the answer to ask for, or with its question if the answer is unknown.

    Args:
        records: Records, read once now, and again on access.
        every: Whether every answer of a record is asked for, instead of its last.
        as_references: Whether a model's answers are compared with those that the records hold.

    Raises:
        UsageError: All answers of a record have weight 0, or one to compare with is judged to be a bad one.
    """

    def __init__(self, records: Sequence[Record], *, every: bool = False, as_references: bool = False) -> None:
        self.records = records
        """The original records."""
        self.every = every
        asked: list[tuple[int, int, int, int]] = []
        of = of_weight_0 = 0
        for index, record in enumerate(records):
            places = find_answers(record)
            if not places:
                raise UsageError(
                    f"{record.where()}: found the weight 0 for every answer, expected one to ask for\n"
                    "  fix: remove the record, or give an answer a weight above 0"
                )
            if as_references and record.desirable is False:
                raise UsageError(
                    f"{record.where('label')}: found false, which calls the last answer a bad one, expected one to "
                    "compare with\n  fix: measure on records whose answers are good, without those of 'label' false"
                )
            numbered = [(index, number, place, len(places)) for number, place in enumerate(places, 1)]
            asked += numbered if every else numbered[-1:]
            of += len(places)
            of_weight_0 += sum(turn.role == "assistant" and not turn.weight for turn in record.turns)
        self._asked = np.array(asked, dtype=np.int64).reshape(-1, 4)
        self.share = Share(asked=len(asked), of=of, of_weight_0=of_weight_0, which="" if every else LAST)

    def __len__(self) -> int:
        return len(self._asked)

    def _item(self, index: int) -> Record:
        number, _, place, _ = self._asked[index].tolist()
        return cut_before(self.records[number], place)

    def fields(self, index: int) -> dict[str, int]:
        """Return the fields of an answer's position for a line of a file.

        Returns:
            ``index``, its record's position from 0; where every answer is asked for ``turn``, its number in the record
            from 1; and ``of_answers``, how many the record has, if more than one.
        """
        number, turn, _, of = self._asked[index].tolist()
        return {"index": number} | ({"turn": turn} if self.every else {}) | ({"of_answers": of} if of > 1 else {})


class Draws(LazySequence[Record]):
    """Asks for several answers in place of each.

    Args:
        asked: The answers.
        number: How many there are of each.
    """

    def __init__(self, asked: Answers, number: int) -> None:
        self.asked = asked
        """Answers, each of which is asked for ``number`` times."""
        self.number = number

    def __len__(self) -> int:
        return len(self.asked) * self.number

    def _item(self, index: int) -> Record:
        return self.asked[index // self.number]

    def fields(self, index: int) -> dict[str, int]:
        """Return the fields of an answer's position: those of ``Answers.fields``, and ``draw``, its number from 1."""
        return self.asked.fields(index // self.number) | {"draw": index % self.number + 1}
