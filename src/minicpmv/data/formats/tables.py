"""Tables: Parquet and Arrow files, and the directories that Hugging Face ``datasets`` writes with ``save_to_disk``.

Only pyarrow is needed, and only when there is a table to read. A column that is null in a row is absent from its
record.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, cast

from minicpmv.errors import DataError, Problem, UsageError

__all__ = ["is_dataset_directory", "read_dataset_directory", "read_table", "table_kind"]

TableKind = Literal["parquet", "arrow file", "arrow stream"]

_BEGINNINGS: tuple[tuple[bytes, TableKind], ...] = (
    (b"PAR1", "parquet"),
    (b"ARROW1", "arrow file"),
    (b"\xff\xff\xff\xff", "arrow stream"),
)
_INSTALL = "pip install 'minicpmv-finetune[data]'"


def table_kind(head: bytes) -> TableKind | None:
    """Tell from the first bytes of a file what table it holds, if any."""
    return next((kind for beginning, kind in _BEGINNINGS if head.startswith(beginning)), None)


def is_dataset_directory(folder: Path) -> bool:
    """Whether ``datasets`` saved one dataset (not a dict of splits) in this folder."""
    return (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()


def read_table(source: str, kind: TableKind) -> list[dict[str, object]]:
    """Read the rows of one file.

    Raises:
        DataError: It is damaged.
        UsageError: pyarrow is not installed.
    """
    pyarrow = _import("pyarrow", source)
    try:
        if kind == "parquet":
            batches = _import("pyarrow.parquet", source).ParquetFile(source).iter_batches()
            return list(_rows(batches))
        with pyarrow.OSFile(source, "rb") as file:
            opened = pyarrow.ipc.open_stream(file) if kind == "arrow stream" else pyarrow.ipc.open_file(file)
            return list(_rows(opened.read_all().to_batches()))
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError([_damaged(source, kind, error)]) from error


def _damaged(source: str, kind: str, error: Exception) -> Problem:
    found = f"{kind.split()[0].capitalize()} data that cannot be read ({str(error).splitlines()[0][:120]})"
    return Problem("D108", source, found, "a complete table", "copy or write the file again")


def read_dataset_directory(source: str) -> list[dict[str, object]]:
    """Read the rows of a directory for which ``is_dataset_directory`` holds, in its own order.

    Raises:
        DataError: A file of it is missing or damaged.
        UsageError: pyarrow is not installed.
    """
    folder = Path(source)
    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        names = [entry["filename"] for entry in state["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        found = f"a state.json that lists no data files ({type(error).__name__}: {error})"
        fix = "save the dataset again with save_to_disk"
        raise DataError([Problem("D108", source, found, "a saved dataset", fix)]) from error
    rows: list[dict[str, object]] = []
    for name in names:
        path = folder / name
        if not path.is_file():
            found, fix = f"no file {name!r}, which state.json lists", "copy or save the dataset again"
            raise DataError([Problem("D108", source, found, "every file of the dataset", fix)])
        with path.open("rb") as file:
            kind = table_kind(file.read(8))
        if kind is None:
            raise DataError([_damaged(str(path), "arrow", ValueError("it begins like no table"))])
        rows += read_table(str(path), kind)
    return rows


def _rows(batches: Any) -> Iterator[dict[str, object]]:
    for batch in batches:
        for row in batch.to_pylist():
            yield cast("dict[str, object]", _without_nulls(row))


def _without_nulls(value: object) -> object:
    """Leave out null fields: a table has every field in every row, whether a record has it or not."""
    if isinstance(value, dict):
        fields = cast("dict[str, object]", value)
        return {key: _without_nulls(entry) for key, entry in fields.items() if entry is not None}
    if isinstance(value, list):
        return [_without_nulls(entry) for entry in cast("list[object]", value)]
    return value


def _import(name: str, source: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UsageError(
            f"{source}: found a table, and no pyarrow to read it with, expected pyarrow\n  fix: {_INSTALL}"
        ) from error
