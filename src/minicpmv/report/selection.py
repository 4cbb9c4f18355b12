"""Chooses which records of a file a page shows."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from minicpmv.data.records import Record
from minicpmv.errors import UsageError

__all__ = ["select_records"]


def select_records(
    records: Sequence[Record], *, names: Sequence[str] = (), sample: int | None = None, seed: int = 0
) -> list[Record]:
    """Return the named records in the order of their names, or a sample in the order of the file.

    Args:
        records: All records of the data.
        names: Ids, or positions from 0 where no record has such an id.
        sample: How many to draw if none is named; all if there are fewer.
        seed: Makes the sample repeatable; another one draws others.

    Raises:
        UsageError: A name fits no record.
    """
    if not names:
        count = len(records) if sample is None else min(sample, len(records))
        return [records[position] for position in sorted(Random(seed).sample(range(len(records)), count))]
    by_id: dict[str, Record] = {}
    for record in records:
        if record.id is not None:
            by_id.setdefault(str(record.id), record)
    chosen = {name: by_id[name] if name in by_id else _at(records, name) for name in names}
    return list(chosen.values())


def _at(records: Sequence[Record], name: str) -> Record:
    if name.isascii() and name.isdigit() and int(name) < len(records):
        return records[int(name)]
    raise UsageError(
        f"--record: found {name!r}, which is no record's id, expected an id or a position from 0 to "
        f"{len(records) - 1}\n  fix: correct the name"
    )
