"""Reads a data file, or a folder of them, into raw records of one form, whatever their container and style.

The content of a file decides its kind, or its name if that is ambiguous. Only faults that
keep records from being read are judged here; see ``checking`` for the rest.
"""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, cast

from numpy.typing import NDArray

from minicpmv.data.records.file_kinds import HEAD_BYTES, FileKind, find_kind
from minicpmv.data.records.folders import describe_unread, find_files
from minicpmv.data.records.formats.containers import csv_rows, json_lines, tables
from minicpmv.data.records.formats.containers.data_files import DataFile
from minicpmv.data.records.formats.containers.json_list import parse_json_list
from minicpmv.data.records.formats.styles import to_own_form
from minicpmv.data.records.path_faults import describe_missing_data
from minicpmv.data.records.record import RawRecord
from minicpmv.data.records.sequences import Concatenated, LazySequence
from minicpmv.errors import DataError, Problem

__all__ = ["log_notice", "open_records", "read_records"]

_logger = logging.getLogger(__name__)

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_WIDEST_MARKS = (b"\xff\xfe\0\0", b"\0\0\xfe\xff")
_WIDE_MARKS = (b"\xff\xfe", b"\xfe\xff")


def log_notice(notice: Problem) -> None:
    """Log a notice about a whole file."""
    _logger.warning("%s", notice)


def open_records(
    path: str | os.PathLike[str], *, on_notice: Callable[[Problem], None] = log_notice
) -> Sequence[RawRecord]:
    """Open the records of a data file, of a folder of data files, or of a dataset directory.

    Each record is read on access, by any process that has a copy of the sequence, which raises a
    ``DataError`` if the file has changed meanwhile. The content of memory depends on the form: for JSON Lines and CSV
    the positions of the records, for other JSON the text, for Parquet its columns, for Arrow files nothing. Gzip files
    are unpacked into a temporary file first. A line of a JSON Lines file or a row of a CSV file that cannot be
    read becomes a record with ``faults``, so that the others are checked as well.

    Args:
        path: File or folder to open.
        on_notice: Called with each notice about a whole file.

    Raises:
        DataError: A file is missing, is of a kind that is not read, is not text, is not JSON or JSON5, is not a list of
            records, or is damaged.
        UsageError: The file is a table, and pyarrow is not installed.
    """
    files = find_files(path)
    if os.path.isdir(path) and files != [os.fspath(path)]:
        for notice in describe_unread(os.fspath(path), files):
            on_notice(notice)
    return Concatenated([_open_source(source, on_notice) for source in files])


def read_records(path: str | os.PathLike[str]) -> list[RawRecord]:
    """Read every record into memory; see ``open_records``."""
    return list(open_records(path))


def _fail(code: str, where: str, found: str, expected: str, fix: str) -> NoReturn:
    raise DataError([Problem(code, where, found, expected, fix)])


def _open_source(source: str, on_notice: Callable[[Problem], None]) -> Sequence[RawRecord]:
    if os.path.isdir(source):
        entries = _Rows(source, tables.open_dataset_directory(source))
    else:
        entries = _open_file(source, on_notice)
    if not len(entries):
        found = "no row" if isinstance(entries, _Rows | csv_rows.CsvRows) else "an empty list"
        _fail("D106", source, found, "at least one record", "add records, or give another file")
    return _InOwnForm(entries)


def _open_file(source: str, on_notice: Callable[[Problem], None]) -> Sequence[RawRecord]:
    """Open a file according to its content, or to its name if that is ambiguous."""
    if problem := describe_missing_data(source):
        raise DataError([problem])
    file = _open(source)
    head = file.read(HEAD_BYTES, 0)
    kind = tables.table_kind(head)
    if kind is not None and not file.is_packed:
        return _Rows(source, tables.Table(source, kind))
    if kind is not None or (file.is_packed and find_kind(head, file.name)):
        inner = f"{kind} data" if kind else cast("FileKind", find_kind(head, file.name)).name
        found, fix = f"{inner}, packed by gzip", f"unpack the file: gunzip --keep {shlex.quote(source)}"
        _fail("D170", source, found, "JSON, JSON Lines or CSV in a gzip file", fix)
    if stranger := find_kind(head, file.name):
        expected = "JSON, JSON Lines, CSV, Parquet or Arrow"
        _fail("D170", source, stranger.name, expected, stranger.as_data(source))
    return _open_text(file, head, on_notice)


def _open(source: str) -> DataFile:
    try:
        return DataFile(source)
    except OSError as error:
        found = f"a file that cannot be read ({error.strerror})"
        raise DataError([Problem("D101", source, found, "a data file", "correct the path")]) from error


class _InOwnForm(LazySequence[RawRecord]):
    """Holds the records of one file, each converted to our form on access."""

    def __init__(self, entries: Sequence[RawRecord]) -> None:
        self._entries = entries

    def __len__(self) -> int:
        return len(self._entries)

    def replace_arrays(self, keep: Callable[[NDArray[Any]], NDArray[Any]]) -> None:
        if isinstance(self._entries, LazySequence):
            self._entries.replace_arrays(keep)

    def _item(self, index: int) -> RawRecord:
        record = self._entries[index]
        return record if record.faults else to_own_form(record)


class _Rows(LazySequence[RawRecord]):
    """Holds the rows of a table as records."""

    def __init__(self, source: str, rows: Sequence[dict[str, object]]) -> None:
        self._source = source
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def _item(self, index: int) -> RawRecord:
        return RawRecord(source=self._source, index=index, line=None, value=self._rows[index], is_row=True)


def _open_text(file: DataFile, head: bytes, on_notice: Callable[[Problem], None]) -> Sequence[RawRecord]:
    _check_encoding(file.source, head)
    start = len(_BYTE_ORDER_MARK) if head.startswith(_BYTE_ORDER_MARK) else 0
    if not head[start:].strip() and len(head) < HEAD_BYTES:
        _fail("D103", f"{file.source}:1", "an empty file", _expected_in(file.name), "add records, or give another file")
    if json_lines.is_json_lines(file, start=start):
        return json_lines.JsonLines(file, start=start)
    opening = head[start:].lstrip()[:1]
    if opening not in (b"", b"[", b"{"):
        if file.name.lower().endswith(csv_rows.SUFFIXES):
            return csv_rows.CsvRows(file, start=start)
        if csv_rows.looks_like_csv(head[start:]):
            found, fix = "text that looks like CSV, in a file that is not called so", "give it the ending .csv or .tsv"
            _fail("D170", file.source, found, "JSON, or a name that ends in .csv", fix)
    with file.stream(start) as stream:
        data = stream.read()
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        found = f"byte 0x{data[error.start]:02x}, which is not UTF-8"
        fix = "save the file as UTF-8"
        raise DataError([Problem("D104", f"{file.source}:{line}", found, "UTF-8 text", fix)]) from error
    return parse_json_list(text, file.source, on_notice=on_notice)


def _expected_in(name: str) -> str:
    """Word what a file of this name would hold."""
    ending = os.path.splitext(name.lower())[1]
    if ending in csv_rows.SUFFIXES:
        return "a header with the name of each column, and a row for each record"
    return "one record on each line" if ending in (".jsonl", ".ndjson") else "a list of records: [ ... ]"


def _check_encoding(source: str, head: bytes) -> None:
    """Refuse UTF-16 and UTF-32 text, with or without a byte order mark, and binary data."""
    is_utf32 = head.startswith(_WIDEST_MARKS) or (
        len(head) > 4 and head[0] != 0 and not any(head[1:4]) and head[4] != 0
    )
    is_wide = (
        is_utf32
        or head.startswith(_WIDE_MARKS)
        or (len(head) > 3 and head[0] != 0 == head[1] and head[2] != 0 == head[3])
    )
    if is_wide:
        kind = "UTF-32" if is_utf32 else "UTF-16"
        target = f"utf8{os.path.splitext(source)[1] or '.json'}"
        fix = f"convert it once: iconv -f {kind} -t UTF-8 {shlex.quote(source)} > {shlex.quote(target)}"
        _fail("D104", f"{source}:1", f"{kind} text, which is not UTF-8", "UTF-8 text", fix)
    if b"\0" in head and head.lstrip()[:1] not in (b"[", b"{"):
        fix = "give a file of records"
        _fail("D170", source, "binary data of an unknown kind", "JSON, JSON Lines, CSV, Parquet or Arrow", fix)
