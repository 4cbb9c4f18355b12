"""Reads comma- or tab-separated values: one record per row, whose keys are the names in the header.

Every value is text, so that an id keeps its leading zeros; an empty cell is None. Columns that hold lists or objects
hold them as JSON. Rows are read on access: only their positions are held in memory. A row that cannot be
read is a fault of that row, and hides no other.
"""

from __future__ import annotations

import csv
import io
import json
from array import array
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, BinaryIO, NoReturn

import numpy as np
from numpy.typing import NDArray

from minicpmv.data.records.formats.containers.columns import check_names
from minicpmv.data.records.formats.containers.data_files import DataFile
from minicpmv.data.records.formats.containers.json_list import DECODER
from minicpmv.data.records.record import RawRecord, quote
from minicpmv.data.records.sequences import LazySequence
from minicpmv.errors import DataError, Problem

__all__ = ["SUFFIXES", "CsvRows", "looks_like_csv"]

SUFFIXES = (".csv", ".tsv")
"""Endings of such files, whose content has no signature."""

_DELIMITERS = ",\t;"
"""Delimiters; the one that is most frequent in the header is taken. Spreadsheets of many countries write semicolons."""
_TALKS = ("conversations", "messages")
"""Columns that may be the only one."""
_JSON_COLUMNS = ("conversations", "messages", "image", "images", "objects", "history", "references")
"""Columns in which a cell that begins with ``[`` or ``{`` is JSON; in others it may be text."""

csv.field_size_limit(2**31 - 1)  # process-wide; the default of 131,072 characters is too small for an embedded image


class CsvRows(LazySequence[RawRecord]):
    """Holds the rows of a file, without the header and without blank lines.

    Args:
        file: File, read by position, row by row.
        start: Bytes to skip, such as a byte order mark.

    Raises:
        DataError: The file is not UTF-8, has no header of distinct names, or unclosed quotes.
    """

    def __init__(self, file: DataFile, *, start: int = 0) -> None:
        self._file = file
        self._places: Any = array("q")  # start and end in bytes, and line, of one row after the other
        with file.stream(start) as stream:
            self._read_places(_Lines(stream, file.source, start))

    def _read_places(self, lines: _Lines) -> None:
        first = next(lines, "")
        self._delimiter = _find_delimiter(first)
        rows = csv.reader(_chain(first, lines), delimiter=self._delimiter, strict=True)
        begins, line = lines.position, 1
        if "\r" in first.rstrip("\r\n"):
            _check_header([first], self._file.source)
        try:
            self._names = next(rows, [])
            _check_header(self._names, self._file.source)
            begins, line = lines.position, lines.number + 1
            for row in rows:
                if row and (len(row) > 1 or row[0].strip()):
                    self._places.extend((begins, lines.position, line))
                begins, line = lines.position, lines.number + 1
        except csv.Error as error:
            _fail_syntax(f"{self._file.source}:{line}", error)

    def __len__(self) -> int:
        return len(self._places) // 3

    def replace_arrays(self, keep: Callable[[NDArray[Any]], NDArray[Any]]) -> None:
        self._places = keep(np.array(self._places, np.int64))

    def _item(self, index: int) -> RawRecord:
        self._file.check_unchanged()
        begins, ends, line = self._places[3 * index : 3 * index + 3].tolist()
        data = io.BytesIO(self._file.read(ends - begins, begins))
        cells = next(csv.reader(_Lines(data, self._file.source, 0), delimiter=self._delimiter, strict=True))
        record = RawRecord(source=self._file.source, index=index, line=line, value=None, is_row=True)
        if len(cells) != len(self._names):
            found, expected = f"{len(cells)} cells", f"{len(self._names)}, as many as the header has"
            fix = 'put a cell that holds a delimiter or a line break in quotes, "..."'
            return replace(record, faults=(Problem("D173", record.where(), found, expected, fix),))
        fields = {name: cell or None for name, cell in zip(self._names, cells, strict=True)}
        record = replace(record, value=fields)
        faults: list[Problem] = []
        parsed: dict[str, object] = dict(fields)
        for name in _JSON_COLUMNS:
            cell = fields.get(name)
            if cell and cell.lstrip()[:1] in ("[", "{"):
                try:
                    parsed[name] = _parse_cell(cell)
                except (ValueError, RecursionError) as error:
                    faults.append(_bad_cell(record, name, cell, error))
        return replace(record, value=parsed, faults=tuple(faults))


class _Lines(Iterator[str]):
    """Iterates over the lines of a file as text, and tracks the position."""

    def __init__(self, file: BinaryIO, source: str, start: int) -> None:
        self._file, self._source = file, source
        self.position = start
        """Position in bytes."""
        self.number = 0

    def __next__(self) -> str:
        line = next(self._file)
        self.position += len(line)
        self.number += 1
        try:
            return line.decode("utf-8")
        except UnicodeDecodeError as error:
            found = f"byte 0x{line[error.start]:02x}, which is not UTF-8"
            where = f"{self._source}:{self.number}"
            raise DataError([Problem("D104", where, found, "UTF-8 text", "save the file as UTF-8")]) from error


def _chain(first: str, lines: Iterator[str]) -> Iterator[str]:
    yield first
    yield from lines


def _find_delimiter(header: str) -> str:
    return max(_DELIMITERS, key=header.count)


def _check_header(names: list[str], source: str) -> None:
    fix = "write the names of the columns, such as id,image,conversations, into the first line"
    if any("\r" in name for name in names):
        found, fix = "lines that end in a carriage return alone", "write line feeds: tr '\\r' '\\n' < OLD.csv > NEW.csv"
    elif names and names[0].startswith("sep="):
        found, fix = f"the line {quote(names[0])}, which spreadsheets write and read", "remove that line"
    elif spaced := [name for name in names if name != name.strip()]:
        found, fix = f"the column {quote(spaced[0])}, with space around its name", "remove the space from the header"
    elif len(names) < 2 and names not in ([key] for key in _TALKS):
        found = f"the header {quote(','.join(names))}, which names one column"
    else:
        check_names(names, f"{source}:1")
        return
    raise DataError([Problem("D173", f"{source}:1", found, "a header with the name of each column, once", fix)])


def _fail_syntax(where: str, error: csv.Error) -> NoReturn:
    found = f"a row that cannot be read ({error})"
    fix = 'close each quote, and double quotes inside a cell: "He said ""yes"""'
    raise DataError([Problem("D173", where, found, "cells with quotes in pairs", fix)]) from error


def _parse_cell(text: str) -> object:
    value, end = DECODER.raw_decode(text.strip())
    if end < len(text.strip()):
        raise json.JSONDecodeError("Extra data", text, end)
    return value


def _bad_cell(record: RawRecord, name: str, cell: str, error: Exception) -> Problem:
    reason = error.msg if isinstance(error, json.JSONDecodeError) else "Nested too deeply"
    fix = f"write the column as JSON; with pandas: table[{name!r}] = table[{name!r}].map(json.dumps)"
    return Problem("D174", record.where(name), f"{quote(cell)} ({reason})", "JSON, as [ or { begins it", fix)


def looks_like_csv(head: bytes) -> bool:
    """Return whether text begins like CSV: a header of several words, and a row with as many cells.

    Args:
        head: The beginning of a file without such an ending.
    """
    lines = head.split(b"\n", 2)
    if len(lines) < 2:
        return False
    header = lines[0].decode("utf-8", "replace").strip()
    delimiter = _find_delimiter(header)
    names = [name.strip(' "') for name in header.split(delimiter)]
    is_named = len(names) > 1 and all(name.replace("_", "a").replace(" ", "a").isalnum() for name in names)
    return is_named and lines[1].count(delimiter.encode()) >= 1
