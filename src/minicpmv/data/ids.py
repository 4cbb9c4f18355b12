"""Whether an id stands twice in a file. Remembers 16 bytes for each, however long they are."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from typing import cast

import numpy as np

from minicpmv.data.records import RawRecord
from minicpmv.errors import Problem

__all__ = ["IdRegister"]


class IdRegister:
    """Takes in records one after the other, and names those whose id an earlier one of the same file has."""

    def __init__(self) -> None:
        self._hashes = array("q")
        self._positions = array("q")

    def add(self, record: RawRecord, position: int) -> None:
        """Take in a record. One without an id that could be repeated counts for nothing.

        Args:
            record: As read.
            position: Of the record among those that :meth:`problems` will be given.
        """
        if (key := _key(record)) is not None:
            self._hashes.append(hash(key))
            self._positions.append(position)

    def problems(self, records: Sequence[RawRecord]) -> Iterator[tuple[int, Problem]]:
        """Yield a problem for each repetition, with its position.

        Args:
            records: Those that were taken in; the few whose hashes meet are read again.
        """
        hashes, positions = np.array(self._hashes), np.array(self._positions)
        order = np.argsort(hashes, kind="stable")
        ordered = hashes[order]
        meets = np.zeros(len(ordered), dtype=bool)
        meets[1:] = ordered[1:] == ordered[:-1]
        meets[:-1] |= meets[1:]
        first: dict[tuple[str, str], int] = {}
        for position in np.sort(positions[order[meets]]).tolist():
            record = records[position]
            key = _key(record)
            if key is not None and first.setdefault(key, record.index) != record.index:
                found = f"the id of record {first[key]} again"
                fix = "rename one, or remove the repeated record"
                yield position, Problem("D114", record.where("id"), found, "every id once", fix)


def _key(record: RawRecord) -> tuple[str, str] | None:
    if record.faults or not isinstance(record.value, dict):
        return None
    value = cast("dict[str, object]", record.value).get("id")
    is_id = isinstance(value, (str, int)) and not isinstance(value, bool)
    return (record.source, str(value)) if is_id else None
