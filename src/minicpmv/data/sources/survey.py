"""Surveys data files without a model: finds all problems and notices, and counts what the files hold.

A run calls ``loading`` instead, which refuses at the first step that fails; the two judge with the same functions.
Records are read again when they are needed again: what stays in memory is the findings, and the places of images.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import cast

import numpy as np
from numpy.typing import NDArray

from minicpmv.data.checks.checking import RecordChecker
from minicpmv.data.checks.duplicate_ids import IdRegister
from minicpmv.data.checks.empty_cells import EmptyCells
from minicpmv.data.checks.lint import find_path_oddity, find_text_oddities
from minicpmv.data.checks.preferences import check_one_kind, kind_of
from minicpmv.data.checks.unread_keys import UnreadKeys
from minicpmv.data.media.film_facts import FilmReader, FilmUse, find_decoding_fault, word_film_fault
from minicpmv.data.media.image_faults import ImageUse
from minicpmv.data.media.image_files import Size, survey_images
from minicpmv.data.records.grounding import check_boxes
from minicpmv.data.records.reading import open_records
from minicpmv.data.records.record import Film, Kind, RawRecord, Record
from minicpmv.data.records.sequences import Concatenated, LazySequence, Selected
from minicpmv.data.sources.loading import build_record, check_image_root
from minicpmv.data.sources.pair_lengths import PairLengths, Unit, compare_lengths, judge_lengths, measure_pair
from minicpmv.data.sources.parts import ImageRoots, film_uses, image_uses, objects_of
from minicpmv.errors import DataError, Problem
from minicpmv.processing.films.facts import FilmFacts
from minicpmv.releases.table import Version

__all__ = ["Finding", "RecordName", "SoundRecords", "Statistics", "Survey"]


@dataclass(frozen=True, slots=True)
class RecordName:
    """Identifies a record."""

    position: int
    """Among the records of all files, from 0."""
    index: int
    """In its file, from 0."""
    line: int | None
    id: object
    """As written, whatever it is."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem or notice, and the record that it is about."""

    problem: Problem
    source: str
    """The data file, as the user wrote it."""
    record: RecordName | None = None
    """None where the whole file is meant."""
    also: tuple[int, ...] = ()
    """Positions of all other records that have the same problem: that of a key which nothing reads."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Statistics:
    """Counts what the files hold, including faulty records as far as they can be read."""

    records: int
    turns: int
    records_with_images: int
    records_without_images: int
    images: int
    """Uses, not files."""
    image_files: int
    characters: int
    """Of all messages."""
    image_sizes: tuple[Size, Size, Size] | None
    """Pixels, (width, height) of the smallest, the median and the largest readable file by area; None without any."""
    films: int = 0
    """Uses, not files."""
    film_files: int = 0
    film_durations: tuple[float, float, float] | None = None
    """Seconds of the shortest, the median and the longest readable film; None without any."""
    kinds: dict[Kind, int] = field(default_factory=dict[Kind, int])
    """Records with a worse answer, with a judgement of their own, and with neither."""
    pairs: PairLengths | None = None
    """Lengths of better and worse answers; None without pairs."""


class SoundRecords(LazySequence[Record]):
    """The records without a problem, as a run would train on them, each made when it is asked for.

    Args:
        survey: Has read texts and images.
        positions: Of the records, among those of all files.
    """

    def __init__(self, survey: Survey, positions: NDArray[np.int64]) -> None:
        self.positions = positions
        self._survey = survey

    def __len__(self) -> int:
        return len(self.positions)

    def _item(self, index: int) -> Record:
        survey = self._survey
        raw = survey.records[int(self.positions[index])]
        root = survey.roots.of(raw)
        sizes = [survey.image_sizes[use.path] for use in image_uses(raw, root, record=0)]
        films = [survey.film_facts[use.film] for use in film_uses(raw, root, record=0)]
        return build_record(raw, root, sizes, films)


@dataclass(slots=True)
class Survey:
    """Reads files in two steps, text first; what a step found stays, whatever becomes of the next."""

    paths: Sequence[str]
    image_root: str | None = None
    version: Version | None = None
    kind: Kind | None = None
    """The kind of records that a run would read; None accepts any."""
    findings: list[Finding] = field(default_factory=list[Finding])
    """In the order in which they were found: for each file text, then for all images, each in file order."""
    num_image_files: int = 0
    image_sizes: dict[str | bytes, Size] = field(default_factory=dict[str | bytes, Size])
    """Pixels, (width, height) of each readable file by its path or bytes."""
    film_facts: dict[Film, FilmFacts] = field(default_factory=dict["Film", FilmFacts])
    """What the header of each readable film states."""
    records: Sequence[RawRecord] = ()
    """Of all files, sound or not, as far as they can be read; read when asked for."""
    _num_records: int = 0
    _num_with_images: int = 0
    _num_turns: int = 0
    _num_characters: int = 0
    _uses: list[ImageUse] = field(default_factory=list[ImageUse])
    _film_uses: list[FilmUse] = field(default_factory=list[FilmUse])
    _with_boxes: list[int] = field(default_factory=list[int])
    _kinds: Counter[Kind] = field(default_factory=Counter[Kind])
    _pairs: dict[int, tuple[int, int]] = field(default_factory=dict[int, tuple[int, int]])
    _unit: Unit = "characters"
    roots: ImageRoots = field(init=False)
    """Where the relative paths of each record start."""

    def __post_init__(self) -> None:
        self.roots = ImageRoots(self.image_root)

    def read_texts(self) -> None:
        """Read every file and judge all that stands in it.

        Raises:
            UsageError: The image root is not a folder.
        """
        check_image_root(self.image_root, name="--image-root")
        parts: list[Sequence[RawRecord]] = []
        for path in self.paths:
            start, records = self._num_records, cast("Sequence[RawRecord]", ())
            try:
                records = open_records(path, on_notice=partial(self._add_notice, path))
                self._read_records(path, records)
            except DataError as error:  # nothing can be read; or, in a table, nothing behind a damaged place
                self.findings += [Finding(problem, os.fspath(path)) for problem in error.problems]
            num_read = self._num_records - start
            parts.append(records if num_read == len(records) else Selected(records, np.arange(num_read)))
        self.records = Concatenated(parts)
        self.num_image_files = len({use.path for use in self._uses})

    def _read_records(self, path: str, records: Sequence[RawRecord]) -> None:
        start, ids, checker = self._num_records, IdRegister(), RecordChecker(version=self.version, kind=self.kind)
        unread, empty, kinds = UnreadKeys(), EmptyCells(), Counter[Kind]()
        for position, record in enumerate(records, start):
            num_findings, root = len(self.findings), self.roots.of(record)
            faults = list(checker.check(record, root))
            self._add(record, position, faults)
            if len(self.findings) == num_findings and objects_of(record):
                self._with_boxes.append(position)
            ids.add(record, position - start)
            empty.add(record, position)
            if record.unread or record.reading:
                unread.add(record, position, root)
            named = {(fault.where, fault.found.partition(" in a ")[0]) for fault in faults}  # once is enough
            self._add(
                record, position, [odd for odd in find_text_oddities(record) if (odd.where, odd.found) not in named]
            )
            texts = [content for _, _, content in record.messages()]
            self._num_turns += len(texts)
            self._num_characters += sum(map(len, texts))
            if isinstance(record.value, dict):
                kinds[kind_of(cast("dict[str, object]", record.value))] += 1
            if (lengths := measure_pair(record, len)) is not None:
                self._pairs[position] = lengths
            uses = list(image_uses(record, root, record=position))
            self._num_with_images += bool(uses)
            self._uses += uses
            self._film_uses += film_uses(record, root, record=position)
            oddities = [find_path_oddity(use.where, use.written) for use in uses if use.written]
            self._add(record, position, [oddity for oddity in oddities if oddity])
            self._num_records += 1
        repeated = ids.judge(records)
        for index, problem in repeated.problems:
            self._add(records[index], start + index, [problem])
        for positions, problem in unread.problems():
            first, *also = positions.tolist()
            self._add(records[first - start], first, [problem], also=tuple(also))
        for position, notice in (*unread.notices(), *empty.notices()):
            self._add(records[position - start], position, [notice])
        self.findings += [Finding(notice, source) for source, notice in repeated.notices]
        self._kinds += kinds
        source = os.fspath(path)
        self.findings += [Finding(problem, source) for problem in check_one_kind(source, kinds)]

    def _add_notice(self, path: str, notice: Problem) -> None:
        self.findings.append(Finding(notice, os.fspath(path)))

    def read_images(self, *, decode: bool = True, on_progress: Callable[[int, int], None] | None = None) -> None:
        """Look at every image file once.

        Args:
            decode: Whether to decode every file; otherwise header and end decide, as before a run.
            on_progress: Called with the number of files seen and of all.
        """
        report = survey_images(self._uses, decode=decode, on_progress=on_progress)
        self.image_sizes = report.sizes
        for position, problem in (*report.problems, *report.notices):
            self.add(position, [problem])
        for position in self._with_boxes:
            record = self.records[position]
            uses = list(image_uses(record, self.roots.of(record), record=position))
            if all(use.path in self.image_sizes for use in uses):
                sizes = [self.image_sizes[use.path] for use in uses]
                self.add(position, check_boxes(record, objects_of(record), sizes))

    def read_films(self, *, decode: bool = False, on_progress: Callable[[int, int], None] | None = None) -> None:
        """Read the header of every film once.

        Args:
            decode: Whether to decode every film as well, all of it that a record asks for.
            on_progress: Called with the number of films seen and of all.

        Raises:
            UsageError: What decodes films is not installed.
        """
        reader = FilmReader()
        for use, facts in zip(self._film_uses, reader.read(self._film_uses), strict=True):
            if facts is not None:
                self.film_facts[use.film] = facts
        for position, problem in (*reader.problems(), *reader.notices()):
            self.add(position, [problem])
        if not decode:
            return
        first = {use.film: use for use in reversed(self._film_uses) if use.film in self.film_facts}
        for number, (film, use) in enumerate(first.items(), 1):
            if fault := find_decoding_fault(film, self.film_facts[film]):
                del self.film_facts[film]
                self.add(use.record, [word_film_fault(use.where, fault)])
            if on_progress is not None:
                on_progress(number, len(first))

    def measure_pairs(self, num_tokens: Callable[[str], int]) -> None:
        """Measure the answers of pairs again, in tokens."""
        measured = {position: measure_pair(self.records[position], num_tokens) for position in self._pairs}
        self._pairs = {position: lengths for position, lengths in measured.items() if lengths is not None}
        self._unit = "tokens"

    def judge_pairs(self) -> None:
        """Add a notice if lengths tell better answers from worse ones."""
        notice = judge_lengths(compare_lengths(self._pairs.values(), self._unit), list(map(os.fspath, self.paths)))
        if notice is not None:
            self.findings.append(Finding(notice, os.fspath(self.paths[0])))

    def statistics(self) -> Statistics:
        """Count what was read until now."""
        seconds = sorted(facts.duration for facts in self.film_facts.values())
        sizes = sorted(self.image_sizes.values(), key=lambda size: size[0] * size[1])
        return Statistics(
            records=self._num_records,
            turns=self._num_turns,
            records_with_images=self._num_with_images,
            records_without_images=self._num_records - self._num_with_images,
            images=len(self._uses),
            image_files=self.num_image_files,
            characters=self._num_characters,
            image_sizes=(sizes[0], sizes[len(sizes) // 2], sizes[-1]) if sizes else None,
            films=len(self._film_uses),
            film_files=len({use.film.source for use in self._film_uses}),
            kinds={kind: self._kinds[kind] for kind in ("conversation", "pair", "answer")},
            pairs=compare_lengths(self._pairs.values(), self._unit),
            film_durations=(seconds[0], seconds[len(seconds) // 2], seconds[-1]) if seconds else None,
        )

    def sound_records(self) -> SoundRecords:
        """Return the records without a problem; images must have been read."""
        faulty = [
            position
            for finding in self.findings
            if finding.record is not None and finding.problem.severity == "problem"
            for position in (finding.record.position, *finding.also)
        ]
        unreadable = [use.record for use in self._uses if use.path not in self.image_sizes]
        unreadable += [use.record for use in self._film_uses if use.film not in self.film_facts]
        return SoundRecords(self, np.delete(np.arange(self._num_records), [*faulty, *unreadable]))

    def problems_of(self, position: int) -> list[Problem]:
        """Return what keeps a record from being trained on; images must have been read.

        An image that cannot be read is a finding of the first record that uses it; here it is a problem of each.
        """
        problems = self._problems_at(position)
        named = {problem.where for problem in problems}
        for use in image_uses(self.records[position], self.roots.of(self.records[position]), record=position):
            if use.path not in self.image_sizes and use.where not in named:
                first = next(other for other in self._uses if other.path == use.path)
                same = [problem for problem in self._problems_at(first.record) if problem.where == first.where]
                problems += [replace(problem, where=use.where) for problem in same]
        for use in film_uses(self.records[position], self.roots.of(self.records[position]), record=position):
            if use.film not in self.film_facts and not any(where.startswith(use.where) for where in named):
                first = next(other for other in self._film_uses if other.film == use.film)
                same = [each for each in self._problems_at(first.record) if each.where.startswith(first.where)]
                problems += [replace(each, where=use.where) for each in same]
        return problems

    def _problems_at(self, position: int) -> list[Problem]:
        return [
            finding.problem
            for finding in self.findings
            if finding.record is not None
            and (finding.record.position == position or position in finding.also)
            and finding.problem.severity == "problem"
        ]

    def add(self, position: int, problems: Iterable[Problem]) -> None:
        """Add what was found about a record, by its position among those of all files."""
        self._add(self.records[position], position, problems)

    def _add(
        self, record: RawRecord, position: int, problems: Iterable[Problem], *, also: tuple[int, ...] = ()
    ) -> None:
        for problem in problems:
            record_id = cast("dict[str, object]", record.value).get("id") if isinstance(record.value, dict) else None
            name = RecordName(position, record.index, record.line, record_id)
            self.findings.append(Finding(problem, record.source, name, also))
