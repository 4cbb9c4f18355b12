"""Loads records from data files, or reports the full list of their problems; a run calls it before anything else.

It needs neither torch nor a model, so that a bad file stops a run in its first second.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from minicpmv.data.checks.checking import RecordChecker
from minicpmv.data.checks.placeholders import FilmField, build_turns, parse_film_field, parse_image_field
from minicpmv.data.checks.unread_keys import UnreadKeys
from minicpmv.data.media.film_facts import FilmFactsList, FilmReader
from minicpmv.data.media.image_files import Size
from minicpmv.data.media.image_sizes import ImageSizes, SizeReader
from minicpmv.data.records.file_state import FileStates
from minicpmv.data.records.films import read_film
from minicpmv.data.records.grounding import fill_marks
from minicpmv.data.records.inline_images import is_embedded, read_embedded
from minicpmv.data.records.reading import log_notice, open_records
from minicpmv.data.records.record import Kind, RawRecord, Record
from minicpmv.data.records.sequences import LazySequence
from minicpmv.data.sharing import ALONE, Sharing, part_of
from minicpmv.data.sources.parts import ImageRoots, Part, look_at, objects_of, open_as
from minicpmv.errors import DataError, Problem, UsageError
from minicpmv.processing.films.facts import FilmFacts
from minicpmv.processing.text.tool_calls import to_json
from minicpmv.processing.text.turns import announce_tools
from minicpmv.releases.table import Version

__all__ = [
    "Checked",
    "Records",
    "build_record",
    "check_image_root",
    "check_records",
    "load_records",
]

_AT_A_TIME = 256
"""Records whose images are opened together, and held in memory if they are embedded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """Holds every record of some data, sound or not."""

    raw: Sequence[RawRecord]
    """In the order of the files; read when asked for."""
    sizes: ImageSizes
    """Of the images of each, as its ``image`` value lists them; none where they cannot be told."""
    films: FilmFactsList
    """What the headers of the films of each state, likewise."""
    problems: list[tuple[int, Problem]]
    """Each with the position of its record, in the order of the records. An image that cannot be read is one problem,
    of the first record that has it; so is a key that nothing reads."""
    bad: NDArray[np.int64]
    """Positions of all records that cannot be trained on."""
    notices: tuple[Problem, ...] = ()
    """What was read otherwise than it is written, or not at all: of each key one, in the order of the files."""
    left_out: tuple[str, ...] = ()
    """Keys that nothing reads."""


class Records(LazySequence[Record]):
    """Sound records, made when they are asked for, by any process that has a copy of the sequence.

    Args:
        raw: As read.
        sizes: Of the images of each, or None if nobody has looked: then each record is checked when it is asked for,
            which raises a ``DataError`` if it has a problem.
        films: Facts of the films of each, or None together with ``sizes``.
        image_root: Folder at which relative image paths start; each data file's own folder if not given.
        version: The model to be trained, if known; for records that are not checked yet.
        kind: As for ``RecordChecker``, likewise.
    """

    def __init__(
        self,
        raw: Sequence[RawRecord],
        sizes: ImageSizes | None,
        films: FilmFactsList | None,
        *,
        image_root: str | os.PathLike[str] | None = None,
        version: Version | None = None,
        kind: Kind | None = None,
    ) -> None:
        self._raw = raw
        self._sizes, self._films = sizes, films
        self._roots = ImageRoots(image_root)
        self._version = version
        self._kind: Kind | None = kind

    def __len__(self) -> int:
        return len(self._raw)

    def _item(self, index: int) -> Record:
        raw, sizes, films, position = self._raw[index], self._sizes, self._films, index
        if sizes is None or films is None:  # both, as nobody has looked
            checked = _check([raw], self._roots, self._version, kind=self._kind)
            if checked.problems:
                raise DataError([problem for _, problem in checked.problems])
            sizes, films, position = checked.sizes, checked.films, 0
        return build_record(raw, self._roots.of(raw), sizes[position], films[position])


def load_records(
    path: str | os.PathLike[str],
    *,
    image_root: str | os.PathLike[str] | None = None,
    version: Version | None = None,
    for_training: bool = True,
) -> Records:
    """Open data, check everything in them, and look at every image file.

    Args:
        path: A file, a folder of files or a dataset directory, in a form that ``docs/data.md`` describes.
        image_root: Folder at which relative image paths start; each data file's own folder if not given.
        version: The model to be trained, if known; some rules depend on it.
        for_training: As for ``RecordChecker``.

    Raises:
        DataError: With every problem of the data, in file order.
        UsageError: ``image_root`` is not a folder, or a table needs pyarrow.
    """
    checked = check_records(open_records(path), image_root=image_root, version=version, for_training=for_training)
    if checked.problems:
        raise DataError([problem for _, problem in checked.problems])
    for notice in checked.notices:
        log_notice(notice)
    return Records(checked.raw, checked.sizes, checked.films, image_root=image_root)


def check_records(
    raw: Sequence[RawRecord],
    *,
    image_root: str | os.PathLike[str] | None = None,
    version: Version | None = None,
    states: FileStates | None = None,
    for_training: bool = True,
    leave_out: Collection[str] = (),
    kind: Kind | None = None,
    sharing: Sharing = ALONE,
) -> Checked:
    """Read every record once, judge it, and look at its images, a few hundred records at a time.

    Args:
        raw: From ``open_records``.
        image_root: As for ``load_records``.
        version: As there.
        states: Where the state of every image file is taken down before it is opened.
        for_training: As for ``RecordChecker``.
        leave_out: Keys that are to be left out: they are no problem, whatever they hold.
        kind: As for ``RecordChecker``.
        sharing: Processes of which each reads a part of the records. All return the same, but for ``states``: each
            has those of its own part.

    Raises:
        UsageError: ``image_root`` is not a folder.
    """
    check_image_root(image_root, name="image root")
    roots = ImageRoots(image_root)
    return _check(
        raw, roots, version, states, for_training=for_training, leave_out=leave_out, kind=kind, sharing=sharing
    )


def check_image_root(image_root: str | os.PathLike[str] | None, *, name: str) -> None:
    """Make sure that an image root, if there is one, is a folder.

    Args:
        image_root: As given.
        name: What the user calls it.

    Raises:
        UsageError: It is not.
    """
    if image_root is not None and not os.path.isdir(image_root):
        found = os.fspath(image_root)
        raise UsageError(
            f"{name}: found no folder {found!r}, expected one\n  fix: name the folder where relative paths start"
        )


def _check(
    raw: Sequence[RawRecord],
    roots: ImageRoots,
    version: Version | None,
    states: FileStates | None = None,
    *,
    for_training: bool = True,
    leave_out: Collection[str] = (),
    kind: Kind | None = None,
    sharing: Sharing = ALONE,
) -> Checked:
    checker = RecordChecker(version=version, for_training=for_training, kind=kind)
    part = Part(UnreadKeys(leave_out), SizeReader(states), FilmReader(states))
    mine = part_of(len(raw), sharing)

    def look() -> None:
        for start in range(mine.start, mine.stop, _AT_A_TIME):
            look_at(raw, range(start, min(start + _AT_A_TIME, mine.stop)), part, checker, roots)

    sharing.agree(look)
    part.join(sharing)
    repeated = part.ids.judge(raw, sharing=sharing)
    problems = [*part.problems, *repeated.problems, *part.reader.problems(), *part.film_reader.problems()]
    if sharing.rank == 0:
        for _, notice in repeated.notices:
            log_notice(notice)
    unreadable = part.unreadable
    for positions, problem in part.unread.problems():
        problems.append((int(positions[0]), problem))
        unreadable += positions.tolist()
    problems.sort(key=lambda found: found[0])
    bad = np.unique(np.array([*unreadable, *(position for position, _ in problems)], dtype=np.int64))
    said = sorted(
        [*part.unread.notices(), *part.film_reader.notices(), *part.empty.notices()], key=lambda found: found[0]
    )
    return Checked(
        raw=raw,
        sizes=part.sizes,
        films=part.films,
        problems=problems,
        bad=bad,
        notices=tuple(notice for _, notice in said),
        left_out=tuple(part.unread.names()),
    )


def build_record(raw: RawRecord, root: str, sizes: Sequence[Size], films: Sequence[FilmFacts] = ()) -> Record:
    """Make a record of a raw one that has no problem.

    Args:
        raw: As read.
        root: Folder at which its relative paths start.
        sizes: Pixels, (width, height) of its images as its ``image`` value lists them.
        films: Facts of its films as its ``video`` value lists them.
    """
    fields = cast("dict[str, object]", raw.value)
    field, film_field = parse_image_field(fields.get("image")), parse_film_field(fields.get("video"))
    messages = cast("list[dict[str, object]]", fields["conversations"])
    filled = fill_marks(messages, objects_of(raw) or None, sizes)
    turns, order, film_order = build_turns(filled, field, film_field)
    if fields.get("tools"):
        listed = tuple(to_json(tool) for tool in cast("list[object]", fields["tools"]))
        turns = tuple(announce_tools(listed, turns))
    worse = cast("list[dict[str, object]]", fields.get("rejected") or [])
    rejected, _, _ = build_turns(worse, parse_image_field(None), FilmField())
    sources = [field.paths[position] for position in order]
    return Record(
        source=raw.source,
        index=raw.index,
        line=raw.line,
        id=cast("str | int | None", fields.get("id")),
        images=tuple(
            read_embedded(source) if is_embedded(source) else cast("str", open_as(root, source)) for source in sources
        ),
        image_sizes=tuple(sizes[position] for position in order),
        films=tuple(read_film(film_field.films[position], root) for position in film_order),
        film_facts=tuple(films[position] for position in film_order),
        turns=turns,
        references=tuple(cast("list[str]", fields.get("references") or ())),
        rejected=rejected,
        desirable=cast("bool | None", fields.get("label")),
    )
