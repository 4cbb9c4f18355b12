"""Splits off records for validation: the same ones in every process and every start, none of which is trained on.

Records that share a picture, or ask the same without one, stay on one side. Which are chosen depends on what they hold,
not on their places, so nearly the same ones are held out when data are added.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from minicpmv.data.machine_copies import remaining
from minicpmv.data.records.record import Record
from minicpmv.data.records.sequences import Concatenated, Selected
from minicpmv.data.sharing import ALONE, Sharing, part_of
from minicpmv.data.sources.cache import Entry
from minicpmv.errors import UsageError
from minicpmv.wording import counted, is_off

__all__ = ["SplitSize", "ValidationSplit", "hold_out", "parse_split"]

_FLAG = "--validation_split"
_SHARE, _LEAST, _MOST, _FROM = 0.05, 10, 500, 100
"""Of the default: a twentieth, because training needs the records more; no fewer than 10, whose mean says little, and
so nothing of fewer than 100 records; no more than 500, because measuring them takes time at each evaluation."""


class SplitSize(NamedTuple):
    """Holds the size of the validation split."""

    share: float
    """Of all records; 0 if a number was asked for."""
    number: int
    """Of records; 0 if a share was asked for."""
    is_default: bool
    """Whether nobody asked: then small data are left whole, and large data give no more than is worth measuring."""

    def of(self, num_records: int) -> int:
        """Count the records to hold out of so many.

        >>> [parse_split(None).of(number) for number in (99, 100, 4000, 10**6)]
        [0, 10, 200, 500]
        >>> parse_split("0.25").of(12), parse_split("3").of(12)
        (3, 3)

        Raises:
            UsageError: None would be left to train on, or to measure.
        """
        if self.is_default:
            return 0 if num_records < _FROM else min(max(_LEAST, round(self.share * num_records)), _MOST)
        wanted = self.number or round(self.share * num_records)
        if not 0 < wanted < num_records:
            written = self.number or f"{self.share:g}"
            raise UsageError(
                f"{_FLAG} {written}: found {counted(num_records, 'record')}, of which {wanted:,} would be held out, "
                f"expected at least one and not all\n  fix: another share or number, or {_FLAG} 0"
            )
        return wanted


@dataclass(frozen=True, kw_only=True, slots=True)
class ValidationSplit:
    """Records apart from the others."""

    records: Sequence[Record]
    """What is measured, each once, in the order of the data."""
    rest: Sequence[Sequence[Record]]
    """What is trained on, of each source."""
    num_records: int
    """Of all sources, held out or not."""
    sha256: str
    """Of which ones they are."""


def parse_split(written: str | None) -> SplitSize | None:
    """Read a share, a number or nothing; None: nothing is held out.

    Raises:
        UsageError: It is none of them.
    """
    if written is None:
        return SplitSize(_SHARE, 0, is_default=True)
    try:
        value = float(written)
    except ValueError:
        value = -1.0
    if value == 0 or is_off(written):
        return None
    if 0 < value < 1:
        return SplitSize(value, 0, is_default=False)
    if re.fullmatch(r"\s*\d+\s*", written):  # not 1.0, which may be meant as all records
        return SplitSize(0.0, int(written), is_default=False)
    raise UsageError(
        f"{_FLAG}: found {written!r}, expected a share above 0 and below 1, a number of records, or 0 for none\n"
        f"  fix: {_FLAG} 0.1 holds out a tenth, {_FLAG} 200 that many records, {_FLAG} 0 none"
    )


def hold_out(
    sources: Sequence[Sequence[Record]], size: SplitSize, *, kept: Entry | None = None, sharing: Sharing = ALONE
) -> ValidationSplit:
    """Choose the records that are held out. Reads all of them once, unless it is known which they are.

    Args:
        sources: Records of each source, each record once.
        size: How many.
        kept: Where it is kept which they are, for exactly these records.
        sharing: Processes of which each reads a part of the records; the first one has the cache, and chooses.

    Raises:
        UsageError: There are too few records, or they all share pictures.
    """
    num_records = sum(len(source) for source in sources)
    wanted = size.of(num_records)
    known = None if kept is None else sharing.first(kept.load)
    if known is not None:
        assert kept is not None
        kept.was_found, chosen = True, known["chosen"]
    else:
        chosen = _choose(Concatenated(sources), wanted, sharing) if wanted else np.zeros(0, np.int64)
        if kept is not None and wanted and sharing.rank == 0:
            kept.store(chosen=chosen)
    if not len(chosen) and not size.is_default:
        raise UsageError(
            f"{_FLAG}: found no part of at most {wanted:,} of {num_records:,} records that shares no picture and no "
            "question with the others, expected one: what training sees would be measured\n"
            f"  fix: a larger part, {_FLAG} 0, or records of their own for --eval_data_path"
        )
    held_out: list[Sequence[Record]] = []
    rest: list[Sequence[Record]] = []
    first = 0
    for source in sources:
        mine = chosen[(chosen >= first) & (chosen < first + len(source))] - first
        held_out.append(Selected(source, mine))
        rest.append(Selected(source, remaining(len(source), mine, sharing)) if len(mine) else source)
        first += len(source)
    digest = hashlib.sha256(chosen.astype("<i8").tobytes()).hexdigest()
    return ValidationSplit(records=Concatenated(held_out), rest=rest, num_records=num_records, sha256=digest)


def _choose(records: Sequence[Record], wanted: int, sharing: Sharing) -> NDArray[np.int64]:
    """Take whole groups in the order of their digests, as long as they fit into the number.

    In numbers of 8 bytes, because there may be millions of records.
    """
    found = sharing.agree(lambda: _describe(records, part_of(len(records), sharing)))
    parts = sharing.deal([found, *[None] * (sharing.number - 1)])
    return sharing.first(lambda: _choose_groups(len(records), parts, wanted))


_Described = tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.uint64]]
"""Keys of records, the place of the record of each key, and a digest of each record."""


def _describe(records: Sequence[Record], which: range) -> _Described:
    keys, places, digests = array("Q"), array("q"), array("Q")
    for place in which:
        record = records[place]
        digests.append(_digest(record))
        for key in _keys(record):
            keys.append(key)
            places.append(place)
    return np.array(keys, np.uint64), np.array(places, np.int64), np.array(digests, np.uint64)


def _choose_groups(number: int, parts: Sequence[_Described | None], wanted: int) -> NDArray[np.int64]:
    described = [part for part in parts if part is not None]
    keys, places, digests = (np.concatenate(each) for each in zip(*described, strict=True))
    groups = _join(number, keys, places)
    first = np.full(number, np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(first, groups, digests)
    sizes = np.bincount(groups, minlength=number)
    is_chosen, left = np.zeros(number, np.bool_), wanted
    for group in np.argsort(first, kind="stable").tolist():
        if not left:
            break
        size = int(sizes[group])
        if 0 < size <= left:
            is_chosen[group] = True
            left -= size
    return np.flatnonzero(is_chosen[groups])


def _join(number: int, keys: NDArray[np.uint64], places: NDArray[np.int64]) -> NDArray[np.int64]:
    """Name the group of each of so many places: those that have a key in common, also through others."""
    parents = np.arange(number).tolist()

    def find(place: int) -> int:
        while parents[place] != place:
            parents[place] = place = parents[parents[place]]
        return place

    order = np.argsort(keys, kind="stable")
    keys, places = keys[order], places[order]
    for same in np.flatnonzero(keys[1:] == keys[:-1]).tolist():
        parents[find(int(places[same]))] = find(int(places[same + 1]))
    return np.array([find(place) for place in range(number)], np.int64)


def _keys(record: Record) -> Iterator[int]:
    """Yield what a record has in common with those that must stay with it: pictures, films, or else its questions."""
    for image in record.images:
        yield _number(image if isinstance(image, bytes) else os.path.realpath(image).encode())
    for film in record.films:
        for path in (film.source,) if isinstance(film.source, str) else film.source:
            yield _number(os.path.realpath(path).encode())
    if not record.images and not record.films:
        asked = [turn.text for turn in record.turns if turn.role != "assistant"]
        yield _number(json.dumps(asked).encode())


def _digest(record: Record) -> int:
    """Digest what a record says, and its pictures by name, wherever the data lie."""
    said = [[turn.role, turn.spoken, *turn.tools] for turn in record.turns]
    images = [
        hashlib.sha256(image).hexdigest() if isinstance(image, bytes) else os.path.basename(image)
        for image in record.images
    ]
    films = [
        [os.path.basename(film.source) if isinstance(film.source, str) else film.name, repr(film.request)]
        for film in record.films
    ]
    return _number(json.dumps([said, images, *([films] if films else [])]).encode())


def _number(content: bytes) -> int:
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "big")
