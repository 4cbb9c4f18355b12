"""Reads tables: Parquet and Arrow files, and the directories that Hugging Face ``datasets`` saves with
``save_to_disk``.

Only pyarrow is needed, and only when there is a table to read. A cell that is null is None; inside a cell a null field
is absent. A class that ``datasets`` keeps as a number is read by its name.
"""

from __future__ import annotations

import importlib
import json
import os
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal, cast

from minicpmv.data.records.file_state import FileState, check_unchanged
from minicpmv.data.records.formats.containers.class_labels import name_classes, read_classes
from minicpmv.data.records.formats.containers.columns import check_names, find_forms, spell_cells
from minicpmv.data.records.sequences import Concatenated, LazySequence
from minicpmv.errors import DataError, Problem, UsageError
from minicpmv.machine.installed import extra, install_command

__all__ = ["Table", "is_dataset_directory", "open_dataset_directory", "table_kind"]

TableKind = Literal["parquet", "arrow file", "arrow stream"]

_BEGINNINGS: tuple[tuple[bytes, TableKind], ...] = (
    (b"PAR1", "parquet"),
    (b"ARROW1", "arrow file"),
    (b"\xff\xff\xff\xff", "arrow stream"),
)


def table_kind(head: bytes) -> TableKind | None:
    """Recognise the kind of table from the first bytes of a file, if it is one."""
    return next((kind for beginning, kind in _BEGINNINGS if head.startswith(beginning)), None)


def is_dataset_directory(folder: Path) -> bool:
    """Return whether ``datasets`` saved one dataset (not a dict of splits) in this folder."""
    return all(os.path.isfile(folder / name) for name in ("state.json", "dataset_info.json"))


class Table(LazySequence["dict[str, object]"]):
    """Holds the rows of one file, made on access.

    Arrow files are mapped into memory, not read. Parquet files, which are compressed, are held as Arrow's columns. A
    copy in another process opens the file again.

    Args:
        source: The file.
        kind: Kind of the table.

    Raises:
        DataError: The file is damaged, or two of its columns have one name.
        UsageError: pyarrow is not installed.
    """

    def __init__(self, source: str, kind: TableKind) -> None:
        self._source, self._kind = source, kind
        self._state = FileState.of(source)
        self._batches = self._open()
        self._ends = list(accumulate(len(batch) for batch in self._batches))

    def _open(self) -> list[Any]:
        pyarrow = _import("pyarrow", self._source)
        try:
            if self._kind == "parquet":
                table = _import("pyarrow.parquet", self._source).ParquetFile(self._source).read()
            else:
                file = pyarrow.memory_map(self._source)
                is_stream = self._kind == "arrow stream"
                table = (pyarrow.ipc.open_stream(file) if is_stream else pyarrow.ipc.open_file(file)).read_all()
            table.validate(full=True)  # an offset out of bounds would crash the process that reads the row
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError([_damaged(self._source, self._kind, error)]) from error
        check_names(table.schema.names, self._source)
        self._classes = read_classes(table.schema.metadata)
        types = {field.name: _name_type(field.type) for field in table.schema}
        self._forms = find_forms(types, lambda name: table.column(name).to_pylist())
        return [batch for batch in table.to_batches() if len(batch)]

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if name != "_batches"}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state)
        check_unchanged(self._source, self._state, self._source)
        self._batches = self._open()

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def _item(self, index: int) -> dict[str, object]:
        number = bisect_right(self._ends, index)
        start = self._ends[number - 1] if number else 0
        (row,) = self._batches[number].slice(index - start, 1).to_pylist()
        cells = cast("dict[str, object]", name_classes(row, self._classes))
        if self._forms:
            cells = spell_cells(cells, self._forms)
        return {name: _without_nulls(cell) for name, cell in cells.items()}


def _name_type(kind: Any) -> str:
    """Return the name of Arrow's type of a column, or of its entries if they are lists."""
    while hasattr(kind, "value_type"):
        kind = kind.value_type
    return str(kind)


def _damaged(source: str, kind: str, error: Exception) -> Problem:
    found = f"{kind.split()[0].capitalize()} data that cannot be read ({str(error).splitlines()[0][:120]})"
    return Problem("D108", source, found, "a complete table", "copy or write the file again")


def open_dataset_directory(source: str) -> Sequence[dict[str, object]]:
    """Open the rows of a directory for which ``is_dataset_directory`` holds, in its order.

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
    files: list[Table] = []
    for name in names:
        path = folder / name
        if not path.is_file():
            found, fix = f"no file {name!r}, which state.json lists", "copy or save the dataset again"
            raise DataError([Problem("D108", source, found, "every file of the dataset", fix)])
        with path.open("rb") as file:
            kind = table_kind(file.read(8))
        if kind is None:
            raise DataError([_damaged(str(path), "arrow", ValueError("it begins like no table"))])
        files.append(Table(str(path), kind))
    return Concatenated(files)


def _without_nulls(value: object) -> object:
    """Remove null fields inside a cell: a table has every field in every row, even if a record lacks it."""
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
            f"{source}: found a table but no pyarrow to read it, expected pyarrow\n"
            f"  fix: {install_command(extra('data'))}"
        ) from error
