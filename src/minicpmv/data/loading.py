"""From a data file to records, or to the full list of what is wrong with it: what a run calls before anything else.

Needs neither torch nor a model, so that a bad file stops a run in its first second.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

from minicpmv.data.checking import RecordChecker, check_image_value
from minicpmv.data.image_files import ImageUse, inspect_images
from minicpmv.data.placeholders import build_turns, parse_image_field
from minicpmv.data.reading import read_records
from minicpmv.data.records import RawRecord, Record
from minicpmv.errors import DataError, Problem, UsageError
from minicpmv.models.versions import Version

__all__ = ["load_records"]


def load_records(
    path: str | os.PathLike[str],
    *,
    image_root: str | os.PathLike[str] | None = None,
    version: Version | None = None,
) -> list[Record]:
    """Read a data file, check everything in it, and open every image file.

    Args:
        path: A JSON list of records in the form that ``docs/data.md`` describes.
        image_root: Folder at which relative image paths start; the data file's own folder if not given.
        version: The model to be trained, if known; some rules depend on it.

    Raises:
        DataError: With every problem of the file, in file order.
        UsageError: ``image_root`` is not a folder.
    """
    raw_records = read_records(path)
    root = os.fspath(image_root) if image_root is not None else str(Path(path).parent)
    if not os.path.isdir(root):
        raise UsageError(f"image root: found no folder {root!r}, expected one\n  fix: correct the path")
    sizes, image_problems = inspect_images([use for raw in raw_records for use in _image_uses(raw, root)])
    problems_of: dict[int, list[Problem]] = {}
    for index, problem in image_problems:
        problems_of.setdefault(index, []).append(problem)
    checker = RecordChecker(version=version)
    problems = [p for raw in raw_records for p in (*checker.check(raw), *problems_of.get(raw.index, ()))]
    if problems:
        raise DataError(problems)
    return [_build(raw, root, sizes) for raw in raw_records]


def _image_uses(raw: RawRecord, root: str) -> Iterator[ImageUse]:
    if not isinstance(raw.value, dict):
        return
    value = cast("dict[str, object]", raw.value).get("image")
    if any(True for _ in check_image_value(raw, value)):
        return
    field = parse_image_field(value)
    for number, written in enumerate(field.paths):
        if isinstance(value, dict):
            name = f"image[{list(cast('dict[str, str]', value))[number]!r}]"
        else:
            name = f"image[{number}]" if isinstance(value, list) else "image"
        yield ImageUse(
            record=raw.index, where=raw.where(name), written=written, path=_resolve(root, written), root=root
        )


def _resolve(root: str, written: str) -> str:
    return str(Path(root, written))


def _build(raw: RawRecord, root: str, sizes: Mapping[str, tuple[int, int]]) -> Record:
    fields = cast("dict[str, object]", raw.value)
    field = parse_image_field(fields.get("image"))
    turns, order = build_turns(cast("list[dict[str, str]]", fields["conversations"]), field)
    images = tuple(_resolve(root, field.paths[position]) for position in order)
    return Record(
        source=raw.source,
        index=raw.index,
        line=raw.line,
        id=cast("str | int | None", fields.get("id")),
        images=images,
        image_sizes=tuple(sizes[path] for path in images),
        turns=turns,
    )
