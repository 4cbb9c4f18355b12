"""Everything that can be said of data files without a model: problems, notices and what they hold. Stops at nothing.

A run calls ``loading`` instead, which refuses at the first step that fails; the two judge with the same functions.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from minicpmv.data.checking import RecordChecker
from minicpmv.data.ids import IdRegister
from minicpmv.data.image_files import ImageUse, survey_images
from minicpmv.data.loading import build_record, image_uses, root_of
from minicpmv.data.oddities import find_path_oddity, find_text_oddities, messages_of
from minicpmv.data.reading import read_records
from minicpmv.data.records import RawRecord, Record
from minicpmv.errors import DataError, Problem, UsageError
from minicpmv.models.versions import Version

__all__ = ["Finding", "Statistics", "Survey"]

Size = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem or notice, and the record that it is about."""

    problem: Problem
    source: str
    """The data file, as the user wrote it."""
    record: RawRecord | None = None
    """None where the whole file is meant."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Statistics:
    """What the files hold, faulty records included as far as they can be read."""

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


@dataclass(slots=True)
class Survey:
    """Reads files in two steps, text first; what a step found stays, whatever becomes of the next."""

    paths: Sequence[str]
    image_root: str | None = None
    version: Version | None = None
    findings: list[Finding] = field(default_factory=list[Finding])
    """In the order in which they were found: for each file text, then for all images, each in file order."""
    num_image_files: int = 0
    image_sizes: dict[str | bytes, Size] = field(default_factory=dict[str | bytes, Size])
    """Pixels, (width, height) of each readable file by its path or bytes."""
    _records: list[tuple[RawRecord, str]] = field(default_factory=list[tuple[RawRecord, str]])
    """With the folder in which the paths of each start."""
    _uses: list[tuple[RawRecord, ImageUse]] = field(default_factory=list[tuple[RawRecord, ImageUse]])

    def read_texts(self) -> None:
        """Read every file and judge all that stands in it.

        Raises:
            UsageError: The image root is not a folder.
        """
        if self.image_root is not None and not os.path.isdir(self.image_root):
            raise UsageError(
                f"--image-root: found no folder {self.image_root!r}, expected one\n  fix: correct the path"
            )
        for path in self.paths:
            try:
                records = read_records(path)
            except DataError as error:
                self.findings += [Finding(problem, os.fspath(path)) for problem in error.problems]
                continue
            checker, ids = RecordChecker(version=self.version), IdRegister()
            for position, record in enumerate(records):
                root = root_of(record, self.image_root)
                self._records.append((record, root))
                self.add(record, checker.check(record))
                ids.add(record, position)
                self.add(record, find_text_oddities(record))
                # The number of the record counts through all files here: one image may stand in several of them.
                for use in image_uses(record, root, record=len(self._records) - 1):
                    self._uses.append((record, use))
                    oddity = find_path_oddity(use.where, use.written) if use.written else None
                    self.add(record, [oddity] if oddity else [])
            for position, problem in ids.problems(records):
                self.add(records[position], [problem])
        self.num_image_files = len({use.path for _, use in self._uses})

    def read_images(self, *, decode: bool = True, on_progress: Callable[[int, int], None] | None = None) -> None:
        """Look at every image file once.

        Args:
            decode: Whether to decode every file; otherwise header and end decide, as before a run.
            on_progress: Called with the number of files seen and of all.
        """
        report = survey_images([use for _, use in self._uses], decode=decode, on_progress=on_progress)
        self.image_sizes = report.sizes
        for number, problem in (*report.problems, *report.notices):
            self.add(self._records[number][0], [problem])

    def statistics(self) -> Statistics:
        """Count what was read until now."""
        messages = [message for record, _ in self._records for message in messages_of(record)]
        with_images = len({id(record) for record, _ in self._uses})
        sizes = sorted(self.image_sizes.values(), key=lambda size: size[0] * size[1])
        return Statistics(
            records=len(self._records),
            turns=len(messages),
            records_with_images=with_images,
            records_without_images=len(self._records) - with_images,
            images=len(self._uses),
            image_files=self.num_image_files,
            characters=sum(len(content) for _, _, content in messages),
            image_sizes=(sizes[0], sizes[len(sizes) // 2], sizes[-1]) if sizes else None,
        )

    def sound_records(self) -> Iterator[tuple[RawRecord, Record]]:
        """Yield the records without a problem, as a run would train on them; images must have been read."""
        faulty = {id(finding.record) for finding in self.findings if finding.problem.severity == "problem"}
        unreadable = {id(record) for record, use in self._uses if use.path not in self.image_sizes}
        for record, root in self._records:
            if id(record) not in faulty and id(record) not in unreadable:
                sizes = [self.image_sizes[use.path] for use in image_uses(record, root, record=0)]
                yield record, build_record(record, root, sizes)

    def add(self, record: RawRecord, problems: Iterable[Problem]) -> None:
        """Add what was found about a record."""
        self.findings += [Finding(problem, record.source, record) for problem in problems]
