"""Finds ids that several records of a file share, and among those the records that are the same as a whole.

An id is its owner's label, in LLaVA's files the picture's: nothing here looks a record up by it. So an id that stands
on different records is said once; the same record twice is a fault. Remembers 16 bytes for each id, however long.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
from numpy.typing import NDArray

from minicpmv.data.records.record import RawRecord, quote
from minicpmv.errors import Problem

__all__ = ["IdRegister", "RepeatedIds", "digest_record"]

_NAMED = 3
"""Ids, and records of each, that a notice names."""


@dataclass(frozen=True, slots=True)
class RepeatedIds:
    """What was found out about ids that come again."""

    problems: list[tuple[int, Problem]]
    """One for each record that an earlier one of its file equals, with its position, in the order of positions."""
    notices: list[tuple[str, Problem]]
    """One for each file in which different records share an id, with the file."""


@dataclass(slots=True)
class _Shared:
    """The ids that different records of one file share."""

    num_records: int = 0
    """Those that have an id which an earlier, different record has."""
    num_ids: int = 0
    examples: list[str] = field(default_factory=list[str])


class IdRegister:
    """Takes in records one after the other, and compares those whose ids meet."""

    def __init__(self) -> None:
        self._hashes = array("q")
        self._positions = array("q")

    def add(self, record: RawRecord, position: int) -> None:
        """Take in a record. One without an id that could be repeated counts for nothing.

        Args:
            record: As read.
            position: Of the record among those that :meth:`judge` will be given.
        """
        if (key := _key(record)) is not None:
            self._hashes.append(hash(key))
            self._positions.append(position)

    def judge(self, records: Sequence[RawRecord]) -> RepeatedIds:
        """Compare the records that share an id.

        Args:
            records: Those that were taken in; the few whose hashes meet are read again.
        """
        problems: list[tuple[int, Problem]] = []
        shared: dict[str, _Shared] = {}
        for positions in self._meetings():
            by_key: dict[tuple[str, str], list[tuple[int, RawRecord]]] = {}
            for position in positions.tolist():
                record = records[position]
                if (key := _key(record)) is not None:
                    by_key.setdefault(key, []).append((position, record))
            for (source, _), alike in by_key.items():
                if len(alike) > 1:
                    problems += _compare(alike, shared.setdefault(source, _Shared()))
        problems.sort(key=lambda found: found[0])
        notices = [(source, _word(source, found)) for source, found in shared.items() if found.num_ids]
        return RepeatedIds(problems, notices)

    def _meetings(self) -> Iterator[NDArray[np.int64]]:
        """Yield the positions of records with one hash, in their order, for each hash that several have."""
        hashes, positions = np.array(self._hashes), np.array(self._positions)
        order = np.argsort(hashes, kind="stable")
        starts = np.flatnonzero(np.append(True, np.diff(hashes[order]) != 0)) if len(order) else order
        ends = np.append(starts[1:], len(order))
        several = ends - starts > 1
        starts, ends = starts[several], ends[several]
        for group in np.argsort(positions[order[starts]], kind="stable").tolist():
            yield positions[order[starts[group] : ends[group]]]


def _compare(alike: Sequence[tuple[int, RawRecord]], shared: _Shared) -> Iterator[tuple[int, Problem]]:
    """Yield a problem for each record of one id that equals an earlier one, and count the others."""
    first: dict[bytes, int] = {}
    for position, record in alike:
        digest = digest_record(record)
        if digest in first:
            found = f"the same record as record {first[digest]}, with the same id"
            fix = "remove one of the two, or give one another id if it is meant to be seen twice"
            yield position, Problem("D114", record.where("id"), found, "every record once", fix)
        else:
            first[digest] = record.index
    if len(first) > 1:
        shared.num_records += len(first) - 1
        shared.num_ids += 1
        if len(shared.examples) < _NAMED:
            fields = cast("dict[str, object]", alike[0][1].value)
            numbers = [str(index) for index in list(first.values())[:_NAMED]]
            more = ", ..." if len(first) > _NAMED else ""
            shared.examples.append(f"{quote(fields['id'])} (records {', '.join(numbers)}{more})")


def _word(source: str, shared: _Shared) -> Problem:
    more = f" and {shared.num_ids - _NAMED:,} more" if shared.num_ids > _NAMED else ""
    found = f"{shared.num_records:,} record(s) with the id of an earlier, different record: "
    found += ", ".join(shared.examples) + more
    fix = "nothing, if an id names the picture, as in LLaVA's files; else give each record its own"
    return Problem(
        "D331", source, found, "every id once; records are told apart by their positions", fix, severity="notice"
    )


def digest_record(record: RawRecord) -> bytes:
    """Return 16 bytes that are the same for records that say the same, whatever the order of their keys.

    Args:
        record: Whose value is an object. Its id does not count: 7 and "7" are one.
    """
    fields = {key: value for key, value in cast("Mapping[str, object]", record.value).items() if key != "id"}
    try:
        text = json.dumps(fields, sort_keys=True, default=_digest_value)
    except RecursionError:  # an ignored key may hold anything; such records count as different
        text = f"record {record.index}"
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _digest_value(value: object) -> str:
    """Stand in for what JSON cannot hold: the bytes of an image, and dates and the like in tables."""
    return hashlib.sha256(value).hexdigest() if isinstance(value, bytes) else repr(value)


def _key(record: RawRecord) -> tuple[str, str] | None:
    if record.faults or not isinstance(record.value, dict):
        return None
    value = cast("dict[str, object]", record.value).get("id")
    is_id = isinstance(value, (str, int)) and not isinstance(value, bool)
    return (record.source, str(value)) if is_id else None
