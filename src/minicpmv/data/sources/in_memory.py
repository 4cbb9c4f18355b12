"""Reads records that a program holds: dicts, a ``datasets.Dataset`` or a pandas table, which need not be installed.

They take any form that a file may have, and are judged by the same rules. Pictures may also be Pillow's.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image

from minicpmv.data.records.formats.containers.class_labels import find_classes, name_classes
from minicpmv.data.records.formats.containers.columns import check_names, find_forms, spell_cells
from minicpmv.data.records.formats.styles import to_own_form
from minicpmv.data.records.reading import log_notice
from minicpmv.data.records.record import RawRecord
from minicpmv.data.sources.conversion import in_own_form
from minicpmv.data.sources.loading import Checked, Records, check_records
from minicpmv.errors import DataError, Problem, UsageError
from minicpmv.files.atomic_files import write_whole
from minicpmv.releases.table import Version

__all__ = ["are_paths", "hold_records", "load_held", "write_records"]


def are_paths(data: object) -> bool:
    """Return whether data are named, by one path or a list of them, and not given themselves."""
    if isinstance(data, str | os.PathLike):
        return True
    return isinstance(data, list | tuple) and bool(data) and all(isinstance(each, str | os.PathLike) for each in data)


def hold_records(data: object, *, name: str) -> list[RawRecord]:
    """Return records in our form, not judged yet.

    Args:
        data: Dicts, in a list or anything else that yields them, such as a ``datasets.Dataset``; or a pandas table.
        name: What messages call them, in place of a file.

    Raises:
        UsageError: It is something else, or a record holds an array of pixels.
        DataError: It is empty, or two columns of a table have one name.
    """
    of_pandas = [kind for kind in type(data).__mro__ if kind.__module__.partition(".")[0] == "pandas"]
    types: dict[str, str] = {}
    if any(kind.__name__ == "DataFrame" for kind in of_pandas):
        table = cast("Any", data)
        check_names(table.columns, name, "rename or remove one of them: table.loc[:, ~table.columns.duplicated()]")
        types = {str(column): str(kind) for column, kind in table.dtypes.items()}
        rows: Any = table.to_dict("records")
    elif isinstance(data, Iterable) and not isinstance(data, str | bytes | Mapping) and not of_pandas:
        rows = list(cast("Iterable[object]", data))
    else:
        raise _not_records(data, name)
    wrong = next((row for row in rows if not isinstance(row, Mapping)), None)
    if wrong is not None:
        raise _not_records(wrong, f"{name}, one of its records")
    if not rows:
        raise DataError([Problem("D106", name, "no record", "at least one", "add records")])
    is_table = bool(of_pandas) or type(data).__module__.partition(".")[0] == "datasets"
    if hasattr(features := getattr(data, "features", None), "to_dict"):  # a data set of datasets
        is_table, told = True, cast("dict[str, object]", cast("Any", features).to_dict())
        classes = find_classes(told) or {}
        rows = [name_classes(row, classes) for row in rows]
        types = {column: _name_type(feature) for column, feature in told.items()}
    if forms := find_forms(types, lambda column: [row.get(column) for row in rows]):
        rows = [spell_cells(dict(row), forms) for row in rows]
    plain = _plain_row if is_table else _plain
    return [
        to_own_form(
            RawRecord(source=name, index=index, line=None, value=plain(row, f"{name} record {index}"), is_row=is_table)
        )
        for index, row in enumerate(rows)
    ]


def _name_type(feature: object) -> str:
    """Return the name of a feature's type, as ``datasets`` spells it, or of its entries if they are lists."""
    while isinstance(feature, list) and feature:
        feature = cast("list[object]", feature)[0]
    fields = cast("dict[str, object]", feature) if isinstance(feature, dict) else {}
    return _name_type(fields["feature"]) if "feature" in fields else str(fields.get("dtype", ""))


def _not_records(found: object, name: str) -> UsageError:
    parts = f" with {', '.join(map(str, list(found)[:3]))}" if isinstance(found, Mapping) else ""
    return UsageError(
        f"{name}: found a {type(found).__name__}{parts}, expected a path, a list of paths, or records: a list of "
        "dicts, a datasets.Dataset or a pandas table\n  fix: give one of these, such as one split of several"
    )


def write_records(raw: Sequence[RawRecord], folder: Path, *, image_root: str | os.PathLike[str] | None) -> Path:
    """Write sound records into a file of JSON Lines that any command reads, named by its content.

    Args:
        raw: From :func:`hold_records`.
        folder: Where to write it; made if need be.
        image_root: Folder at which relative paths start; by default the working directory. The file has absolute ones.

    Raises:
        DataError: With every problem of the records.
        UsageError: ``image_root`` is not a folder.
    """
    root = _root(image_root)
    checked = _check(check_records(raw, image_root=root))
    own = (in_own_form(record, sizes, None, image_root=root) for record, sizes in zip(raw, checked.sizes, strict=True))
    text = "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in own)
    file = folder / f"records-{hashlib.sha256(text.encode()).hexdigest()[:12]}.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(file, text)
    return file


def load_held(
    data: object,
    *,
    name: str,
    image_root: str | os.PathLike[str] | None = None,
    version: Version | None = None,
    for_training: bool = True,
) -> Records:
    """Check records that a program holds, as ``load_records`` does those of a file.

    Args:
        data: As for :func:`hold_records`.
        name: As there.
        image_root: As for :func:`write_records`.
        version: As for ``load_records``.
        for_training: As there.

    Raises:
        DataError: With every problem of the records.
        UsageError: They are no records, or ``image_root`` is not a folder.
    """
    raw, root = hold_records(data, name=name), _root(image_root)
    checked = _check(check_records(raw, image_root=root, version=version, for_training=for_training))
    return Records(checked.raw, checked.sizes, checked.films, image_root=root)


def _root(image_root: str | os.PathLike[str] | None) -> str:
    return os.fspath(image_root or os.getcwd())


def _check(checked: Checked) -> Checked:
    if checked.problems:
        raise DataError([problem for _, problem in checked.problems])
    for notice in checked.notices:
        log_notice(notice)
    return checked


def _plain_row(row: Mapping[object, object], where: str) -> dict[str, object]:
    """Return a row as a file would hold it, with None for each empty cell."""
    return {str(key): None if _is_missing(each) else _plain(each, f"{where} {key}") for key, each in row.items()}


def _plain(value: object, where: str) -> object:
    """Return what a file would hold; a field that is null, or NaN as in a table's empty cells, is absent."""
    if isinstance(value, Mapping):
        fields = cast("Mapping[object, object]", value).items()
        return {str(key): _plain(each, f"{where} {key}") for key, each in fields if not _is_missing(each)}
    _refuse_pixels(value, where)
    if isinstance(value, np.ndarray | list | tuple):
        return [_plain(each, where) for each in cast("Iterable[object]", value)]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, os.PathLike):
        return os.fspath(cast("os.PathLike[str]", value))
    return {"bytes": _png(value)} if isinstance(value, Image.Image) else value


def _refuse_pixels(value: object, where: str) -> None:
    """Refuse an array that holds a picture, NumPy's or torch's: its bytes do not say in what order its colours are."""
    shape = tuple(getattr(value, "shape", ()))
    if len(shape) > 2 or (len(shape) == 2 and str(getattr(value, "dtype", "")).endswith("uint8")):
        raise UsageError(
            f"{where}: found an array of shape {shape}, expected a picture as a path, bytes or Pillow's image\n"
            "  fix: for one of shape (height, width, 3), in RGB: PIL.Image.fromarray(array)"
        )


def _is_missing(value: object) -> bool:
    is_nan = isinstance(value, float) and value != value
    return value is None or is_nan or type(value).__name__ in ("NAType", "NaTType")  # pandas' own


def _png(picture: Image.Image) -> bytes:
    """Return a picture's file, without loss."""
    written = io.BytesIO()
    picture.save(written, format="png")
    return written.getvalue()
