"""Mixes several data files in one epoch, each with a weight that states how often its records are seen.

Weight 2 means every record twice, 0.5 half of the records, the same half for one seed. Nothing is shuffled here: the
order is that of the command line, and the trainer's sampler does the rest.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from minicpmv.data.checks.unread_keys import UnreadKeys
from minicpmv.data.machine_copies import remaining
from minicpmv.data.records.file_state import FileStates
from minicpmv.data.records.folders import data_folder
from minicpmv.data.records.record import Kind, RawRecord, Record
from minicpmv.data.records.sequences import Concatenated, Selected
from minicpmv.data.sharing import ALONE, Sharing
from minicpmv.data.sources.cache import DataCache
from minicpmv.data.sources.check_cache import check_or_recall
from minicpmv.data.sources.loading import Checked, Records, check_records
from minicpmv.data.sources.skipping import Skipped
from minicpmv.data.sources.source_digests import Content, open_source
from minicpmv.data.sources.validation import SplitSize, ValidationSplit, hold_out
from minicpmv.errors import DataError, Problem, UsageError
from minicpmv.releases.table import Version
from minicpmv.wording import counted

__all__ = ["DataSource", "Mixture", "load_mixture", "mix", "parse_source", "parse_validation_sets"]

_WEIGHT = re.compile(r"(?P<path>.+):(?P<weight>[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class DataSource:
    """One file, folder or dataset directory of a run."""

    path: str
    weight: float = 1.0
    """How often each of its records is seen in an epoch."""


_NAMED = re.compile(r"(?P<name>[A-Za-z0-9_.-]+)=(?P<path>.+)", re.DOTALL)


def parse_validation_sets(written: Sequence[str], *, flag: str) -> dict[str, list[DataSource]]:
    """Read ``PATH ...`` or ``NAME=PATH ...``; sources of one given name are one set, others are sets by themselves.

    >>> list(parse_validation_sets(["val.json"], flag="--eval_data_path"))
    ['']
    >>> list(parse_validation_sets(["val/charts.json", "text=val/ocr.jsonl"], flag="--eval_data_path"))
    ['charts', 'text']

    Returns:
        The sources of each set by its name, in the order in which they are first named. A single source without a name
        is called ''.

    Raises:
        UsageError: There is a weight, or two sets would have the same name.
    """
    sets: dict[str, list[DataSource]] = {}
    unnamed: dict[str, str] = {}
    for each in written:
        match = None if os.path.exists(each) else _NAMED.fullmatch(each)
        source = parse_source(match["path"] if match else each, flag=flag, weights_allowed=False)
        if match is None and len(written) == 1:
            return {"": [source]}
        name = match["name"] if match else re.sub(r"[^A-Za-z0-9_.-]", "_", Path(source.path).stem)
        if name in sets and (match is None or name in unnamed):
            raise UsageError(
                f"{flag}: found two sets that would be called {name!r}: {unnamed.get(name, sets[name][0].path)!r} and "
                f"{source.path!r}, expected a name for each\n  fix: write {name}1={sets[name][0].path} "
                f"{name}2={source.path}, or {name}=PATH twice for one set of both"
            )
        if match is None:
            unnamed[name] = source.path
        sets.setdefault(name, []).append(source)
    return sets


def parse_source(written: str, *, flag: str, weights_allowed: bool = True) -> DataSource:
    """Read ``PATH`` or ``PATH:WEIGHT``. What exists as it is written is a path, whatever colons it has.

    >>> parse_source("nowhere.jsonl:0.5", flag="--data_path")
    DataSource(path='nowhere.jsonl', weight=0.5)

    Raises:
        UsageError: The weight is not positive, or a weight stands where none can be.
    """
    match = _WEIGHT.fullmatch(written)
    if match is None or os.path.exists(written):
        return DataSource(written)
    weight = float(match["weight"])
    if not weights_allowed:
        raise UsageError(
            f"{flag}: found the weight {match['weight']} in {written!r}, expected a path alone: every record is "
            f"measured once\n  fix: write {match['path']}"
        )
    if not 0 < weight < float("inf"):
        raise UsageError(
            f"{flag}: found the weight {match['weight']} in {written!r}, expected a positive number\n"
            f"  fix: {match['path']}:0.5 takes half of its records, {match['path']} all; leave the file out to take "
            "none"
        )
    return DataSource(match["path"], weight)


@dataclass(frozen=True, kw_only=True, slots=True)
class Mixture:
    """The records of an epoch."""

    records: Sequence[Record]
    """In the order of the sources, made when they are asked for."""
    left_out: Skipped
    """Bad records that are not among them."""
    contents: Mapping[str, Content]
    """Of each source, by its path."""
    identity: Sequence[Any] | None
    """All that the records and the sizes of their images depend on, for JSON; None if nobody has looked at images."""
    files: Sequence[FileStates] | None
    """The image files of each source, as they were checked; None if nobody has looked."""
    num_recalled: int
    """How many of the records of all sources were found as checked before."""
    notices: tuple[Problem, ...] = ()
    """Keys that nothing reads, and records that were read otherwise than they are written; once for each file."""
    validation: ValidationSplit | None = None
    """Records split off for validation; None if there is no split."""


def load_mixture(
    sources: Sequence[DataSource],
    *,
    image_root: str | os.PathLike[str] | None = None,
    version: Version | None = None,
    seed: int = 0,
    skip_bad: bool = False,
    check_first: bool = True,
    cache: DataCache | None = None,
    split: SplitSize | None = None,
    kind: Kind | None = None,
    sharing: Sharing = ALONE,
) -> Mixture:
    """Load every source, and mix them; see ``load_records`` and ``mix``.

    Args:
        sources: Where the records are.
        image_root: As for ``load_records``.
        version: As there.
        seed: As for ``mix``.
        skip_bad: Whether records with a problem are left out, and returned by name, instead of raised. A file that
            cannot be read at all, or has no sound record, is an error nevertheless.
        check_first: Whether all records are checked now, or each when it is asked for.
        cache: Where it is kept which sources are sound; by default all are checked.
        split: How many records are held out, each once whatever the weights; needs ``check_first``.
        kind: As for ``RecordChecker``.
        sharing: Processes of which each reads a part of every source; all return the same.

    Raises:
        DataError: With the problems of all sources.
        UsageError: A weight leaves no record of its source, or as ``load_records`` does.
    """
    loaded: list[tuple[DataSource, Sequence[Record]]] = []
    problems: list[Problem] = []
    left_out: dict[str, list[Problem]] = {}
    contents: dict[str, Content] = {}
    identity: list[Any] = [seed]
    files: list[FileStates] = []
    num_recalled, notices = 0, list[Problem]()
    for source in sources:
        try:
            raw, content = open_source(source.path, sharing=sharing)
            contents[source.path] = content
            if not check_first:
                loaded.append((source, Records(raw, None, None, image_root=image_root, version=version, kind=kind)))
                continue
            checked, states, is_recalled = check_or_recall(
                raw,
                content,
                source.path,
                image_root=image_root,
                version=version,
                cache=cache,
                kind=kind,
                sharing=sharing,
            )
        except DataError as error:
            problems += error.problems
            continue
        num_recalled += is_recalled * len(raw)
        notices += checked.notices
        files.append(states)
        name = Path(source.path).name  # decides with the seed which records a broken weight takes
        found = sharing.first(partial(_digest_checked, checked))
        identity.append([name, source.weight, content, found])
        records: Sequence[Record] = Records(raw, checked.sizes, checked.films, image_root=image_root)
        if not skip_bad or len(checked.bad) == len(raw):
            problems += [problem for _, problem in checked.problems]
        elif len(checked.bad):
            left_out |= _name_bad(checked, image_root, version, kind)
            records = Selected(records, remaining(len(raw), checked.bad, sharing))
        loaded.append((source, records))
    if problems:
        raise DataError(problems)
    validation = None
    if split is not None:
        folders = [
            os.path.realpath(data_folder(source.path) if image_root is None else image_root) for source in sources
        ]
        entry = None if cache is None else cache.entry("validation", records=identity, split=split, folders=folders)
        validation = hold_out([records for _, records in loaded], split, kept=entry, sharing=sharing)
        loaded = [(source, rest) for (source, _), rest in zip(loaded, validation.rest, strict=True)]
        identity.append(["without", validation.sha256])
    return Mixture(
        validation=validation,
        records=mix(loaded, seed=seed),
        left_out=left_out,
        contents=contents,
        identity=identity if check_first else None,
        files=files if check_first else None,
        num_recalled=num_recalled,
        notices=tuple(notices),
    )


def _digest_checked(checked: Checked) -> str:
    digest = hashlib.sha256()
    for array in (*checked.sizes.as_arrays(), *checked.films.as_arrays(), checked.bad):
        digest.update(array.tobytes())
    return digest.hexdigest()


def _name_bad(
    checked: Checked, image_root: str | os.PathLike[str] | None, version: Version | None, kind: Kind | None
) -> dict[str, list[Problem]]:
    """Give each bad record its problems; an image that several have is a problem of all of them."""
    found: dict[int, list[Problem]] = {}
    for position, problem in checked.problems:
        found.setdefault(position, []).append(problem)
    named: dict[str, list[Problem]] = {}
    for position in checked.bad.tolist():
        raw = checked.raw[position]
        named[raw.where()] = found.get(position) or _check_alone(raw, image_root, version, kind)
    return named


def _check_alone(
    raw: RawRecord, image_root: str | os.PathLike[str] | None, version: Version | None, kind: Kind | None
) -> list[Problem]:
    """Return the problems of a record that are named once for its file: of unread keys, and of images."""
    fields = cast("dict[str, object]", raw.value)
    if not fields.get("image") and not fields.get(
        "video"
    ):  # only keys are left, and there may be a record of them in each line
        unread = UnreadKeys()
        unread.add(raw, 0, data_folder(raw.source) if image_root is None else os.fspath(image_root))
        return [problem for _, problem in unread.problems()]
    return [problem for _, problem in check_records([raw], image_root=image_root, version=version, kind=kind).problems]


def mix(loaded: Sequence[tuple[DataSource, Sequence[Record]]], *, seed: int) -> Sequence[Record]:
    """Repeat the records of each source as often as its weight says.

    Of n records with weight w, all are there floor(w) times, and round((w - floor(w)) n) of them once more. Which ones
    depends on the seed, on the name of the source and on n, not on the other sources.

    Raises:
        UsageError: A weight leaves no record of its source.
    """
    mixed: list[Sequence[Record]] = []
    for source, records in loaded:
        whole = int(source.weight)
        num_more = int((source.weight - whole) * len(records) + 0.5)
        if not whole and not num_more:
            raise UsageError(
                f"{source.path}: found the weight {source.weight:g} for {counted(len(records), 'record')}, which "
                "leaves none of them, expected at least one\n  fix: give it a larger weight, or leave the file out"
            )
        mixed += [records] * whole
        chosen = random.Random(f"{seed} {Path(source.path).name} {len(records)}").sample(range(len(records)), num_more)
        mixed.append(Selected(records, np.array(sorted(chosen), dtype=np.int64)))
    return Concatenated(mixed)
