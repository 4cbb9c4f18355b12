"""From a data file, or a folder of them, to raw records in one form, whatever container and style they come in.

The content of a file says what it is; where that leaves it open, its name does. Nothing is judged here beyond what
keeps records from being read at all; see ``checking`` for the rest.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from minicpmv.data.formats import json_lines, tables
from minicpmv.data.formats.json_list import parse_json_list
from minicpmv.data.formats.styles import to_own_form
from minicpmv.data.records import RawRecord
from minicpmv.data.sequences import Concatenated, LazySequence
from minicpmv.errors import DataError, Problem

__all__ = ["data_folder", "find_files", "open_records", "read_records"]

DATA_SUFFIXES = (".json", ".jsonl", ".ndjson", ".json5", ".parquet", ".arrow")
"""Names of files that count as data where a folder is given."""

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def open_records(path: str | os.PathLike[str]) -> Sequence[RawRecord]:
    """Open the records of a data file, of a folder of data files, or of a dataset directory.

    Each record is read when it is asked for, by any process that has a copy of the sequence, which raises a
    ``DataError`` if the file has changed meanwhile. What is held in memory depends on the form: of JSON Lines the
    places of the lines, of other JSON the text, of Parquet its columns, of Arrow files nothing. A line of a JSON Lines
    file that cannot be read becomes a record with ``faults``, so that the other lines are seen.

    Raises:
        DataError: A file is missing, is not text, is not JSON or JSON5, is not a list of records, or is damaged.
        UsageError: The file is a table, and pyarrow is not installed.
    """
    return Concatenated([_open_source(source) for source in find_files(path)])


def read_records(path: str | os.PathLike[str]) -> list[RawRecord]:
    """Read every record into memory; see ``open_records``."""
    return list(open_records(path))


def find_files(path: str | os.PathLike[str]) -> list[str]:
    """List what is read when a path is given: the file itself, a folder's data files by name, or a dataset directory.

    Raises:
        DataError: There is nothing of that kind.
    """
    source = os.fspath(path)
    folder = Path(source)
    if not folder.is_dir() or tables.is_dataset_directory(folder):
        return [source]
    if (folder / "dataset_dict.json").is_file():
        splits = sorted(entry.name for entry in folder.iterdir() if tables.is_dataset_directory(entry))
        found = f"a dataset of several splits: {', '.join(splits)}"
        _fail("D101", source, found, "one split", f"name it: {os.path.join(source, splits[0] if splits else 'train')}")
    files = sorted(
        entry.name
        for entry in folder.iterdir()
        if entry.is_file() and entry.suffix.lower() in DATA_SUFFIXES and not entry.name.startswith(".")
    )
    if not files:
        fix = "name the file inside the folder, or give it one of these endings"
        _fail("D101", source, "a folder without data files", f"files ending in {', '.join(DATA_SUFFIXES)}", fix)
    return [os.path.join(source, name) for name in files]


def data_folder(source: str) -> str:
    """Return the folder at which relative image paths of a record with this ``source`` start."""
    path = Path(source)
    return str(path if path.is_dir() else path.parent)


def _fail(code: str, where: str, found: str, expected: str, fix: str) -> NoReturn:
    raise DataError([Problem(code, where, found, expected, fix)])


def _open_source(source: str) -> Sequence[RawRecord]:
    if Path(source).is_dir():
        entries = _Rows(source, tables.open_dataset_directory(source))
    else:
        kind = tables.table_kind(_read_head(source))
        entries = _open_text_file(source) if kind is None else _Rows(source, tables.Table(source, kind))
    if not len(entries):
        _fail("D106", source, "an empty list", "at least one record", "add records, or give another file")
    return _InOwnForm(entries)


class _InOwnForm(LazySequence[RawRecord]):
    """Records of one file, each brought into our form when it is asked for."""

    def __init__(self, entries: Sequence[RawRecord]) -> None:
        self._entries = entries

    def __len__(self) -> int:
        return len(self._entries)

    def _item(self, index: int) -> RawRecord:
        record = self._entries[index]
        return record if record.faults else to_own_form(record)


class _Rows(LazySequence[RawRecord]):
    """The rows of a table as records."""

    def __init__(self, source: str, rows: Sequence[dict[str, object]]) -> None:
        self._source = source
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def _item(self, index: int) -> RawRecord:
        return RawRecord(source=self._source, index=index, line=None, value=self._rows[index])


def _read_head(source: str) -> bytes:
    path = Path(source)
    if not path.exists():
        folder = path.parent
        lacking = f"no such file in {folder.resolve()}" if folder.is_dir() else f"no folder {folder}"
        _fail("D101", source, lacking, "a data file", "correct the path")
    return _read_bytes(source, 8)


def _read_bytes(source: str, size: int = -1) -> bytes:
    try:
        with open(source, "rb") as file:
            return file.read(size)
    except OSError as error:
        raise DataError(
            [Problem("D101", source, f"a file that cannot be read ({error.strerror})", "a data file", "fix its access")]
        ) from error


def _open_text_file(source: str) -> Sequence[RawRecord]:
    head = _read_head(source)
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        _fail("D104", f"{source}:1", "UTF-16 text, which is not UTF-8", "UTF-8 text", "save the file as UTF-8")
    start = len(_BYTE_ORDER_MARK) if head.startswith(_BYTE_ORDER_MARK) else 0
    if json_lines.is_json_lines(source, start=start, named_so=Path(source).suffix.lower() in json_lines.SUFFIXES):
        return json_lines.JsonLines(source, start=start)
    data = _read_bytes(source)[start:]
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        found = f"byte 0x{data[error.start]:02x}, which is not UTF-8"
        raise DataError([Problem("D104", f"{source}:{line}", found, "UTF-8 text", "save the file as UTF-8")]) from error
    return parse_json_list(text, source)
