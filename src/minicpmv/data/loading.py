"""From a data file to records, or to the full list of what is wrong with it: what a run calls before anything else.

Needs neither torch nor a model, so that a bad file stops a run in its first second.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

from minicpmv.data.checking import RecordChecker, check_image_value
from minicpmv.data.embedded import inspect_embedded, is_embedded, read_embedded
from minicpmv.data.image_files import ImageUse, inspect_images
from minicpmv.data.placeholders import build_turns, parse_image_field
from minicpmv.data.reading import data_folder, read_records
from minicpmv.data.records import RawRecord, Record
from minicpmv.errors import DataError, Problem, UsageError
from minicpmv.models.versions import Version

__all__ = ["build_record", "image_uses", "load_raw_records", "load_records", "open_as", "root_of"]

_Sizes = Mapping[str | bytes, tuple[int, int]]


def load_records(
    path: str | os.PathLike[str],
    *,
    image_root: str | os.PathLike[str] | None = None,
    version: Version | None = None,
) -> list[Record]:
    """Read a data file, check everything in it, and open every image file.

    Args:
        path: A file, a folder of files or a dataset directory, in a form that ``docs/data.md`` describes.
        image_root: Folder at which relative image paths start; each data file's own folder if not given.
        version: The model to be trained, if known; some rules depend on it.

    Raises:
        DataError: With every problem of the data, in file order.
        UsageError: ``image_root`` is not a folder, or a table needs pyarrow.
    """
    raw_records, sizes = load_raw_records(path, image_root=image_root, version=version)
    return [build_record(raw, root_of(raw, image_root), sizes) for raw in raw_records]


def load_raw_records(
    path: str | os.PathLike[str],
    *,
    image_root: str | os.PathLike[str] | None = None,
    version: Version | None = None,
) -> tuple[list[RawRecord], dict[str | bytes, tuple[int, int]]]:
    """Read and check as ``load_records`` does, and return the records as written, in our form.

    Returns:
        The records, none of which has a problem, and the (width, height) in pixels of every image by path or, if it is
        embedded, by its value.
    """
    raw_records = read_records(path)
    if image_root is not None and not os.path.isdir(image_root):
        found = os.fspath(image_root)
        raise UsageError(f"image root: found no folder {found!r}, expected one\n  fix: correct the path")
    problems_of: dict[int, list[Problem]] = {}
    sizes: dict[str | bytes, tuple[int, int]] = {}
    uses: list[ImageUse] = []
    for position, raw in enumerate(raw_records):
        for use in image_uses(raw, root_of(raw, image_root), record=position):
            source = use.path
            if not is_embedded(source):
                uses.append(use)
            elif source not in sizes:
                size = inspect_embedded(source, use.where)
                if isinstance(size, Problem):
                    problems_of.setdefault(position, []).append(size)
                else:
                    sizes[source] = size
    file_sizes, image_problems = inspect_images(uses)
    for position, problem in image_problems:
        problems_of.setdefault(position, []).append(problem)
    checker = RecordChecker(version=version)
    problems = [
        problem
        for position, raw in enumerate(raw_records)
        for problem in (*checker.check(raw), *problems_of.get(position, ()))
    ]
    if problems:
        raise DataError(problems)
    return raw_records, sizes | cast("dict[str | bytes, tuple[int, int]]", file_sizes)


def root_of(raw: RawRecord, image_root: str | os.PathLike[str] | None) -> str:
    """Return the folder at which relative paths of a record start: the one given, or its data file's own."""
    return data_folder(raw.source) if image_root is None else os.fspath(image_root)


def image_uses(raw: RawRecord, root: str, *, record: int) -> Iterator[ImageUse]:
    """Yield each image of a record, or nothing if the record is not sound enough to tell.

    Args:
        raw: As read.
        root: Folder at which its relative paths start.
        record: What stands for the record in the uses.
    """
    if raw.faults or not isinstance(raw.value, dict):
        return
    value = cast("dict[str, object]", raw.value).get("image")
    if any(True for _ in check_image_value(raw, value)):
        return
    field = parse_image_field(value)
    for number, source in enumerate(field.paths):
        if isinstance(value, dict):
            name = f"image[{list(cast('dict[str, object]', value))[number]!r}]"
        else:
            name = f"image[{number}]" if isinstance(value, list) else "image"
        yield ImageUse(
            record=record,
            where=raw.where(name),
            written="" if is_embedded(source) else cast("str", source),
            path=open_as(root, source),
            root=root,
        )


def open_as(root: str, source: str | bytes) -> str | bytes:
    """Return what is opened for an image value: an embedded image as it is, or the path of its file."""
    return source if is_embedded(source) else str(Path(root, cast("str", source)))


def build_record(raw: RawRecord, root: str, sizes: _Sizes) -> Record:
    """Make a record of a raw one that has no problem.

    Args:
        raw: As read.
        root: Folder at which its relative paths start.
        sizes: Pixels, (width, height) of its images by path or, if embedded, by value.
    """
    fields = cast("dict[str, object]", raw.value)
    field = parse_image_field(fields.get("image"))
    turns, order = build_turns(cast("list[dict[str, str]]", fields["conversations"]), field)
    images: list[str | bytes] = []
    image_sizes: list[tuple[int, int]] = []
    for position in order:
        source = field.paths[position]
        opened = open_as(root, source)
        image_sizes.append(sizes[opened])
        images.append(read_embedded(source) if is_embedded(source) else opened)
    return Record(
        source=raw.source,
        index=raw.index,
        line=raw.line,
        id=cast("str | int | None", fields.get("id")),
        images=tuple(images),
        image_sizes=tuple(image_sizes),
        turns=turns,
    )
