"""Reports rows without a picture or film in a table whose other rows have one.

In JSON a record without a picture was written without one. In a table a cell is as easily empty because a file was not
found when the table was made, and the model then learns to answer that question unseen. Both are allowed: a notice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from minicpmv.data.records.record import RawRecord
from minicpmv.errors import Problem

__all__ = ["EmptyCells"]


@dataclass(slots=True)
class _Rows:
    """Counts the rows of one table."""

    number: int = 0
    num_shown: int = 0
    """Rows with a picture or film."""
    first: tuple[int, RawRecord] | None = None
    """The first row without, and its position."""


class EmptyCells:
    """Collects rows of tables one by one."""

    def __init__(self) -> None:
        self._tables: dict[str, _Rows] = {}

    def add(self, record: RawRecord, position: int) -> None:
        """Add a record; one that is no row, or cannot be read, is ignored.

        Args:
            record: As read.
            position: Position of the record in the results.
        """
        if not record.is_row or record.faults or not isinstance(record.value, dict):
            return
        fields = cast("dict[str, object]", record.value)
        rows = self._tables.setdefault(record.source, _Rows())
        rows.number += 1
        if fields.get("image") or fields.get("video"):
            rows.num_shown += 1
        elif rows.first is None:
            rows.first = position, record

    def join(self, later: EmptyCells) -> None:
        """Add the rows that another has collected from later records."""
        for source, others in later._tables.items():
            rows = self._tables.setdefault(source, _Rows())
            rows.number += others.number
            rows.num_shown += others.num_shown
            rows.first = rows.first or others.first

    def notices(self) -> list[tuple[int, Problem]]:
        """Return a notice for each table with both kinds of rows, with the position of the first row without."""
        return [
            (rows.first[0], _word(rows.first[1], rows))
            for rows in self._tables.values()
            if rows.first is not None and rows.num_shown
        ]


def _word(record: RawRecord, rows: _Rows) -> Problem:
    found = f"no picture in {rows.number - rows.num_shown:,} of {rows.number:,} rows, of which this is the first"
    expected = "one in each row of a table that has pictures; such a row is read as text alone"
    fix = "nothing, if they are questions without one; else fill the cells, or leave the rows out"
    return Problem("D322", record.where("image"), found, expected, fix, severity="notice")
