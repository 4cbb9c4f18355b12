"""Every answer of every record, each asked for with the recorded ones before it as context."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from minicpmv.data.records import Record
from minicpmv.data.sequences import LazySequence

__all__ = ["Answers", "Counted", "count_answers"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Counted:
    """How many answers some records hold."""

    in_all: int
    """Of the assistant's turns."""
    of_weight_0: int
    """Those of them that training only reads."""


def count_answers(records: Sequence[Record]) -> Counted:
    """Count the answers of some records; each is read once."""
    weights = [record.turns[place].weight for record in records for place in _places(record)]
    return Counted(in_all=len(weights), of_weight_0=weights.count(0))


class Answers(LazySequence[Record]):
    """A record for each answer that training weighs: it ends with that answer.

    Args:
        records: Read once now, and again when one is needed.
    """

    def __init__(self, records: Sequence[Record]) -> None:
        self._records = records
        asked = [
            (index, number, place)
            for index, record in enumerate(records)
            for number, place in enumerate(_places(record), 1)
            if record.turns[place].weight
        ]
        self._asked = np.array(asked, dtype=np.int64).reshape(-1, 3)

    def __len__(self) -> int:
        return len(self._asked)

    def _item(self, index: int) -> Record:
        number, _, place = self._asked[index].tolist()
        record = self._records[number]
        is_last = place == len(record.turns) - 1
        # References are of the record's last answer.
        return record if is_last else replace(record, turns=record.turns[: place + 1], references=())

    def origin(self, index: int) -> tuple[int, int]:
        """Return the position of an answer's record, from 0, and its number among that record's answers, from 1."""
        record, number, _ = self._asked[index].tolist()
        return record, number


def _places(record: Record) -> Iterator[int]:
    return (place for place, turn in enumerate(record.turns) if turn.role == "assistant")
