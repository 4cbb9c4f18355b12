"""Finds ids that several records of a file share, and among those the records that are identical.

An id is its owner's label, in LLaVA's files the picture's: nothing here looks up a record by it. So an id that is
on different records is reported once; the same record twice is a fault. Each id takes 16 bytes of memory, however long.
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
from minicpmv.data.sharing import ALONE, Sharing
from minicpmv.errors import Problem
from minicpmv.wording import counted

__all__ = ["IdRegister", "RepeatedIds", "digest_record"]

_NAMED = 3
"""Most ids, and records of each, that a notice names."""


@dataclass(frozen=True, slots=True)
class RepeatedIds:
    """Holds the findings about repeated ids."""

    problems: list[tuple[int, Problem]]
    """Problem for each record that equals an earlier one of its file, with its position, in order."""
    notices: list[tuple[str, Problem]]
    """Notice for each file in which different records share an id, with the file."""


@dataclass(slots=True)
class _Shared:
    """Counts the ids that different records of one file share."""

    num_records: int = 0
    """Records with the id of an earlier, different record."""
    num_ids: int = 0
    examples: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])
    """Position of the first record with an id, and the id in words; of the first few."""

    def join(self, other: _Shared) -> None:
        """Count those of other ids, too."""
        self.num_records += other.num_records
        self.num_ids += other.num_ids
        self.examples = sorted(self.examples + other.examples)[:_NAMED]


class IdRegister:
    """Collects records one by one, and compares those with the same id."""

    def __init__(self) -> None:
        self._hashes = array("q")
        self._positions = array("q")

    def add(self, record: RawRecord, position: int) -> None:
        """Add a record; one without a usable id is ignored.

        Args:
            record: As read.
            position: Position of the record in the sequence for :meth:`judge`.
        """
        if (key := _key(record)) is not None:
            self._hashes.append(_hash(key))
            self._positions.append(position)

    def judge(self, records: Sequence[RawRecord], *, sharing: Sharing = ALONE) -> RepeatedIds:
        """Compare the records that share an id.

        Args:
            records: All records; the few with equal hashes are read again.
            sharing: Processes that have each added a part of them. Each compares those of a share of the hashes.
        """
        self._take_share(sharing)
        joined: dict[str, _Shared] = {}
        problems: list[tuple[int, Problem]] = []
        for more_problems, more_shared in sharing.gather(sharing.agree(lambda: self._compare_meetings(records))):
            problems += more_problems
            for source, found in more_shared.items():
                joined.setdefault(source, _Shared()).join(found)
        problems.sort(key=lambda found: found[0])
        several = sorted((found.examples[0][0], source) for source, found in joined.items() if found.num_ids)
        return RepeatedIds(problems, [(source, _word(source, joined[source])) for _, source in several])

    def _compare_meetings(self, records: Sequence[RawRecord]) -> tuple[list[tuple[int, Problem]], dict[str, _Shared]]:
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
        return problems, shared

    def _take_share(self, sharing: Sharing) -> None:
        """Hand each id to the process that compares it."""
        hashes, positions = np.array(self._hashes), np.array(self._positions)
        whose = hashes % sharing.number
        given = [(hashes[whose == rank], positions[whose == rank]) for rank in range(sharing.number)]
        taken = sharing.deal(given)
        self._hashes = array("q", np.concatenate([each for each, _ in taken]).tobytes())
        self._positions = array("q", np.concatenate([each for _, each in taken]).tobytes())

    def _meetings(self) -> Iterator[NDArray[np.int64]]:
        """Yield, for each hash that several records have, their positions in order."""
        hashes, positions = np.array(self._hashes), np.array(self._positions)
        order = np.argsort(hashes, kind="stable")
        starts = np.flatnonzero(np.append(True, np.diff(hashes[order]) != 0)) if len(order) else order
        ends = np.append(starts[1:], len(order))
        several = ends - starts > 1
        starts, ends = starts[several], ends[several]
        for group in np.argsort(positions[order[starts]], kind="stable").tolist():
            yield positions[order[starts[group] : ends[group]]]


def _compare(alike: Sequence[tuple[int, RawRecord]], shared: _Shared) -> Iterator[tuple[int, Problem]]:
    """Yield a problem for each record with one id that equals an earlier one, and count the others."""
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
            shared.examples.append((alike[0][0], f"{quote(fields['id'])} (records {', '.join(numbers)}{more})"))


def _word(source: str, shared: _Shared) -> Problem:
    more = f" and {shared.num_ids - _NAMED:,} more" if shared.num_ids > _NAMED else ""
    found = f"{counted(shared.num_records, 'record')} with the id of an earlier, different record: "
    found += ", ".join(example for _, example in shared.examples) + more
    fix = "nothing, if an id names the picture, as in LLaVA's files; else give each record its own"
    return Problem(
        "D331", source, found, "every id once; records are identified by their positions", fix, severity="notice"
    )


def digest_record(record: RawRecord) -> bytes:
    """Return 16 bytes that are equal for records with equal content, whatever the order of their keys.

    Args:
        record: Record whose value is an object. Its id does not count: 7 and "7" are equal.
    """
    fields = {key: value for key, value in cast("Mapping[str, object]", record.value).items() if key != "id"}
    try:
        text = json.dumps(fields, sort_keys=True, default=_digest_value)
    except RecursionError:  # an ignored key may hold anything; such records count as different
        text = f"record {record.index}"
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _digest_value(value: object) -> str:
    """Replace values that JSON cannot hold: the bytes of an image, and dates and the like in tables."""
    return hashlib.sha256(value).hexdigest() if isinstance(value, bytes) else repr(value)


def _hash(key: tuple[str, str]) -> int:
    """Return 8 bytes of a key that are the same in every process, as Python's own hashes are not."""
    digest = hashlib.blake2b("\0".join(key).encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def _key(record: RawRecord) -> tuple[str, str] | None:
    if record.faults or not isinstance(record.value, dict):
        return None
    value = cast("dict[str, object]", record.value).get("id")
    is_id = isinstance(value, (str, int)) and not isinstance(value, bool)
    return (record.source, str(value)) if is_id else None
