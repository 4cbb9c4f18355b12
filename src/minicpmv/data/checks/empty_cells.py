"""Reports rows without a picture or film in a table that has a column for them.

In JSON a record without a picture was written without one. In a table a cell is as easily empty because a file was not
found when the table was made, and the model then learns to answer that question unseen. Both are allowed: a notice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from minicpmv.data.records.record import SHOWN, RawRecord
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
        if any(fields.get(key) not in (None, [], {}) for key in ("image", "video")):  # sound or not
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
        """Return a notice for each table with such rows, with the position of the first."""
        return [
            (rows.first[0], problem)
            for rows in self._tables.values()
            if rows.first is not None and (problem := _word(rows.first[1], rows)) is not None
        ]


def _word(record: RawRecord, rows: _Rows) -> Problem | None:
    """Word the notice of a table; None if it has no column for pictures and films."""
    column = next((key for key in SHOWN if key in record.empty), "")
    what = "film" if column.startswith("video") else "picture"
    if rows.num_shown:
        found = f"no picture in {rows.number - rows.num_shown:,} of {rows.number:,} rows, of which this is the first"
        expected = "one in each row of a table that has pictures; such a row is read as text alone"
        fix = "nothing, if they are questions without one; else fill the cells, or leave the rows out"
    elif column:
        found = f"no {what} in any row: the column {column!r} is empty in all {rows.number:,}"
        expected = "one in each row of a table that has such a column; without, a row is read as text alone"
        fix = "fill the cells; or remove the column, if the questions need none"
    else:
        return None
    where = record.where_written(column) if column else record.where("image")
    return Problem("D322", where, found, expected, fix, severity="notice")
