"""Converts sound records of any form to JSON Lines in ours, for ``minicpmv convert``.

Files appear complete or not at all. Images keep their paths, rewritten if the new file is in another folder.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from minicpmv.data.checks.duplicate_ids import digest_record
from minicpmv.data.media.image_files import Size
from minicpmv.data.records.boxes import BoxError, scale_boxes
from minicpmv.data.records.grounding import fill_marks
from minicpmv.data.records.inline_images import data_url, image_kind, is_embedded, read_embedded
from minicpmv.data.records.reading import open_records
from minicpmv.data.records.record import RawRecord
from minicpmv.data.sources.loading import check_records
from minicpmv.data.sources.parts import ImageRoots, objects_of
from minicpmv.errors import DataError, Problem, UsageError
from minicpmv.files.atomic_files import replacing
from minicpmv.processing.films.request import REQUEST_KEYS
from minicpmv.terminal.streams import advise
from minicpmv.wording import counted

__all__ = ["Conversion", "convert", "in_own_form"]

_OF_ANSWERS = ("weight", "reasoning_content")
"""Keys that an answer may have in addition to its text."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Conversion:
    """Reports the written records and the omitted keys."""

    num_records: int
    left_out: tuple[str, ...]
    """Keys that nothing here reads, such as ``source`` or ``model``, those inside of records with the place before."""
    notices: tuple[Problem, ...]
    """Notices about them, about records that have no messages, and about ids that several files share."""


@dataclasses.dataclass(kw_only=True, slots=True)
class _Target:
    output: Path | None
    """None: paths are made absolute, for a file anywhere."""
    roots: ImageRoots
    image_dir: Path | None
    pixel_boxes: bool
    leave_out: frozenset[str]


def convert(
    paths: Sequence[str],
    output: str,
    *,
    image_root: str | None = None,
    image_dir: str | None = None,
    pixel_boxes: bool = False,
    leave_out: Collection[str] = (),
) -> Conversion:
    """Read data and write all of them, in order, into one file.

    Args:
        paths: Files, folders and dataset directories.
        output: The file to write.
        image_root: Folder at which relative image paths of the data start; each file's own folder if not given.
        image_dir: Folder for embedded images; without it they stay embedded, as ``data:`` URLs.
        pixel_boxes: Whether boxes are in pixels and to be rewritten; see ``boxes``.
        leave_out: Keys to do without, wherever they stand: those that would be a problem because nothing reads them,
            and those that are read and optional.

    Raises:
        DataError: With every problem of the data. Nothing is written.
        UsageError: As ``load_records`` does.
    """
    records: list[RawRecord] = []
    problems: list[Problem] = []
    sizes: list[Sequence[Size]] = []
    unread: set[str] = set()
    notices: list[Problem] = []
    for path in paths:
        try:
            checked = check_records(open_records(path), image_root=image_root, leave_out=leave_out)
        except DataError as error:
            problems += error.problems
            continue
        problems += [problem for _, problem in checked.problems]
        if not checked.problems:
            records += checked.raw
            sizes += checked.sizes
        unread |= set(checked.left_out)
        notices += checked.notices
    said, repeated = _check_repeated(records, ImageRoots(image_root))
    notices += said
    problems += repeated
    target = _Target(
        output=Path(output),
        roots=ImageRoots(image_root),
        image_dir=None if image_dir is None else Path(image_dir),
        pixel_boxes=pixel_boxes,
        leave_out=frozenset(leave_out),
    )
    texts: list[dict[str, Any]] = []
    for record, of_images in zip(records, sizes, strict=True):
        made, wrong = _texts(record, of_images, target)
        texts.append(made)
        problems += wrong
    if problems:
        raise DataError(problems)
    lines = [_line(record, made, target) for record, made in zip(records, texts, strict=True)]
    _write(Path(output), "".join(lines).encode())
    unread |= {key for record in records for key in _optional_keys(record) if key.split(": ")[-1] in leave_out}
    return Conversion(num_records=len(lines), left_out=tuple(sorted(unread)), notices=tuple(notices))


def in_own_form(
    record: RawRecord, sizes: Sequence[Size], output: str | None, *, image_root: str | None
) -> dict[str, Any]:
    """Return what ``convert`` writes of a sound record.

    Args:
        record: The record.
        sizes: Those of its images.
        output: The file that it will be in, which paths of images start from; None: they are made absolute.
        image_root: Folder at which relative image paths of the data start; each file's own folder if not given.
    """
    target = _Target(
        output=None if output is None else Path(output),
        roots=ImageRoots(image_root),
        image_dir=None,
        pixel_boxes=False,
        leave_out=frozenset(),
    )
    texts, _ = _texts(record, sizes, target)
    return _whole(record, texts, target)


def _optional_keys(record: RawRecord) -> Iterator[str]:
    """Yield the keys of a record that are read and that it could be without, as ``left_out`` names them."""
    fields = _fields(record)
    if fields.get("references"):
        yield "references"
    yield from (f"messages: {key}" for message in fields["conversations"] for key in _OF_ANSWERS if key in message)


def _write(path: Path, data: bytes) -> None:
    """Write a file so that it is never seen half written.

    Raises:
        UsageError: Its folder cannot be written.
    """

    def refused(error: OSError) -> UsageError:
        fix = advise(error, otherwise="choose another place")
        return UsageError(f"{path}: found {error.strerror}, expected to write it\n  fix: {fix}")

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise refused(error) from error
    with replacing(path, refused=refused) as file:
        file.write(data)


def _fields(record: RawRecord) -> dict[str, Any]:
    return cast("dict[str, Any]", record.value)


def _check_repeated(records: Sequence[RawRecord], roots: ImageRoots) -> tuple[list[Problem], list[Problem]]:
    """Compare records of different files that share an id; those of one file were compared when it was read.

    Returns:
        A notice, if there are such records; and a problem for each that would stand in the new file twice.
    """
    first: dict[str, int] = {}
    problems: list[Problem] = []
    shared: list[str] = []
    for number, record in enumerate(records):
        record_id = _fields(record).get("id")
        other = records[number if record_id is None else first.setdefault(str(record_id), number)]
        if other.source == record.source:
            continue
        is_same_root = os.path.realpath(roots.of(other)) == os.path.realpath(roots.of(record))
        if digest_record(other) == digest_record(record) and (is_same_root or not _shows(record)):
            found, fix = f"the same record as {other.where()}", "leave one of the two out"
            problems.append(Problem("D114", record.where("id"), found, "every record once", fix))
        else:
            shared.append(f"{record.where()} and {other.where()}")
    if not shared:
        return [], problems
    found = f"{counted(len(shared), 'record')} with the id of a different record of another file: {shared[0]}"
    found += ", ..." if len(shared) > 1 else ""
    fix = "nothing, if an id names the picture; else give each record its own"
    expected = "every id once; records are identified by their positions"
    return [Problem("D331", records[0].source, found, expected, fix, severity="notice")], problems


def _shows(record: RawRecord) -> bool:
    fields = _fields(record)
    return bool(fields.get("image") or fields.get("video"))


def _texts(record: RawRecord, sizes: Sequence[Size], target: _Target) -> tuple[dict[str, Any], list[Problem]]:
    """Return the conversation, what is worse than its answer, and the references, as the new file has them."""
    fields = _fields(record)
    problems: list[Problem] = []

    def rewritten(text: str, field: str) -> str:
        if not target.pixel_boxes:
            return text
        try:
            return scale_boxes(text, sizes)
        except BoxError as error:
            problems.append(Problem("D139", record.where(field), error.found, error.expected, error.fix))
            return text

    messages = fill_marks(fields["conversations"], objects_of(record) or None, sizes)
    made: dict[str, Any] = {"tools": fields["tools"]} if fields.get("tools") else {}
    made |= {
        "conversations": [
            {"role": message["role"], "content": rewritten(message["content"], f"conversations[{number}].content")}
            | {key: message[key] for key in _OF_ANSWERS if key in message and key not in target.leave_out}
            | ({"tool_calls": message["tool_calls"]} if "tool_calls" in message else {})
            for number, message in enumerate(messages)
        ]
    }
    if "rejected" in fields:
        made["rejected"] = [
            {**turn, "content": rewritten(turn["content"], f"rejected[{number}].content")}
            for number, turn in enumerate(fields["rejected"])
        ]
    made |= {"label": fields["label"]} if "label" in fields else {}
    if fields.get("references") and "references" not in target.leave_out:
        made["references"] = [
            rewritten(text, f"references[{number}]") for number, text in enumerate(fields["references"])
        ]
    return made, problems


def _from(output: Path, path: str | Path) -> str:
    """Write a path as the new file must. A link to an image stays; folders are resolved, since ``..`` leaves them."""
    folder, name = os.path.split(path)
    return os.path.relpath(os.path.join(os.path.realpath(folder), name), os.path.realpath(output.parent))


def _line(record: RawRecord, texts: dict[str, Any], target: _Target) -> str:
    return json.dumps(_whole(record, texts, target), ensure_ascii=False) + "\n"


def _whole(record: RawRecord, texts: dict[str, Any], target: _Target) -> dict[str, Any]:
    fields = _fields(record)
    image = fields.get("image")
    made: dict[str, Any] = {} if fields.get("id") is None else {"id": fields["id"]}
    if isinstance(image, dict) and image:
        mapping = cast("dict[str, str | bytes]", image)
        made["image"] = {key: _written(record, value, target) for key, value in mapping.items()}
    elif isinstance(image, list) and image:
        made["image"] = [_written(record, value, target) for value in cast("list[str | bytes]", image)]
    elif image:
        made["image"] = _written(record, cast("str | bytes", image), target)
    if fields.get("video"):
        made["video"] = _written_films(record, fields["video"], target)
    return made | texts


def _written_films(record: RawRecord, value: Any, target: _Target) -> Any:
    """Return a ``video`` value with the paths that the new file must have; every other value is as it was."""
    if isinstance(value, str):
        return _written(record, value, target)
    if isinstance(value, list):
        return [_written_films(record, each, target) for each in cast("list[Any]", value)]
    fields = cast("dict[str, Any]", value)
    return {key: each if key in REQUEST_KEYS else _written_films(record, each, target) for key, each in fields.items()}


def _written(record: RawRecord, source: str | bytes, target: _Target) -> str:
    """Say how the new file names an image: by a path from its own folder, or by a ``data:`` URL."""
    if not is_embedded(source):
        written, root = cast("str", source), target.roots.of(record)
        if target.output is None:
            return os.path.abspath(os.path.join(root, written))
        stays = os.path.isabs(written) or os.path.realpath(root) == os.path.realpath(target.output.parent)
        return written if stays else _from(target.output, os.path.join(root, written))
    data = read_embedded(source)
    if target.image_dir is None or target.output is None:
        return data_url(data)
    kind = image_kind(data)
    path = target.image_dir / f"{hashlib.sha256(data).hexdigest()[:20]}.{'jpg' if kind == 'jpeg' else kind}"
    if not path.exists():
        _write(path, data)
    return _from(target.output, path)
