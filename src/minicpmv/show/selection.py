"""Chooses which records of a file a page shows."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import cast

from minicpmv.data.records.record import RawRecord, Record
from minicpmv.data.sources.survey import Survey
from minicpmv.errors import DataError, UsageError

__all__ = ["select_records"]


def select_records(
    survey: Survey, *, names: Sequence[str] = (), sample: int | None = None, seed: int = 0
) -> list[Record]:
    """Return the named records in the order of their names, or a sample of the sound ones in the order of the file.

    Args:
        survey: Has read texts and images.
        names: Ids, each for all records that have it, or positions from 0 where none has.
        sample: Number to draw if none is named; all if there are fewer.
        seed: Seed of the sample.

    Raises:
        UsageError: A name matches no record.
        DataError: A named record has problems; or no record is named and all have problems.
    """
    sound = survey.sound_records()
    if not names:
        if not len(sound):
            raise DataError([finding.problem for finding in survey.findings if finding.problem.severity == "problem"])
        count = len(sound) if sample is None else min(sample, len(sound))
        return [sound[index] for index in sorted(Random(seed).sample(range(len(sound)), count))]
    index_of = {position: index for index, position in enumerate(sound.positions.tolist())}
    chosen = list(dict.fromkeys(_find(survey.records, names)))
    if problems := [found for position in chosen if position not in index_of for found in survey.problems_of(position)]:
        raise DataError(problems)
    return [sound[index_of[position]] for position in chosen]


def _find(records: Sequence[RawRecord], names: Sequence[str]) -> list[int]:
    """Return the positions for each name: those of all records with that id, or else the one that it states."""
    by_id: dict[str, list[int]] = {name: [] for name in names}
    for position, record in enumerate(records):
        record_id = _id(record)
        if record_id is not None and record_id in by_id:
            by_id[record_id].append(position)
    return [position for name in names for position in by_id[name] or [_position(len(records), name)]]


def _id(record: RawRecord) -> str | None:
    written = cast("dict[str, object]", record.value).get("id") if isinstance(record.value, dict) else None
    return str(written) if isinstance(written, (str, int)) and not isinstance(written, bool) else None


def _position(num_records: int, name: str) -> int:
    if name.isascii() and name.isdigit() and int(name) < num_records:
        return int(name)
    raise UsageError(
        f"--record: found {name!r}, which is not the id of a record, expected an id or a position from 0 to "
        f"{num_records - 1}\n  fix: --record 0 shows the first; `minicpmv check` names records"
    )
