"""Reads JSON Lines: one record per line, read on access. Only the positions of the lines are held in memory.

A line that cannot be read is a fault of that line, and hides no other.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minicpmv.data.records.formats.containers.data_files import DataFile
from minicpmv.data.records.formats.containers.json_list import DECODER, is_cut_off
from minicpmv.data.records.record import RawRecord, quote
from minicpmv.data.records.sequences import LazySequence
from minicpmv.errors import Problem

__all__ = ["SUFFIXES", "JsonLines", "is_json_lines"]

SUFFIXES = (".jsonl", ".ndjson")
"""Endings that decide if the content does not."""

_BLOCK = 2**24
"""Bytes that are searched for line ends at a time."""
_MAY_BE_BLANK = np.frombuffer(b"\0 \t\r\v\f", np.uint8)
"""First bytes of lines of only white space, and 0 for a line whose first byte is unknown."""


def is_json_lines(file: DataFile, *, start: int) -> bool:
    """Distinguish JSON Lines from a list of records.

    A list begins with ``[``. Several lines, one of the first two of which is a complete object, are JSON Lines;
    for anything else, such as a single object, the name decides.

    Args:
        file: The file.
        start: Bytes to skip.
    """
    named_so = file.name.lower().endswith(SUFFIXES)
    opening = file.read(4096, start).lstrip()[:1]
    if opening == b"[" or named_so or opening != b"{":
        return named_so and opening != b"["
    with file.stream(start) as stream:
        lines = (line for line in map(bytes.strip, stream) if line)
        first = [line for line, _ in zip(lines, range(2), strict=False)]
    return len(first) > 1 and any(_is_object(line) for line in first)


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


class JsonLines(LazySequence[RawRecord]):
    """Holds the records of a file, one for every line that is not blank; unreadable ones carry their fault.

    Args:
        file: File, read by position, line by line.
        start: Bytes to skip, such as a byte order mark.
    """

    def __init__(self, file: DataFile, *, start: int = 0) -> None:
        self._file = file
        self._starts, self._ends, self._numbers = _find_lines(file, start)

    def __len__(self) -> int:
        return len(self._starts)

    def replace_arrays(self, keep: Callable[[NDArray[Any]], NDArray[Any]]) -> None:
        self._starts, self._ends = keep(self._starts), keep(self._ends)
        self._numbers = None if self._numbers is None else keep(self._numbers)

    def _item(self, index: int) -> RawRecord:
        self._file.check_unchanged()
        start, end = int(self._starts[index]), int(self._ends[index])
        number = index + 1 if self._numbers is None else int(self._numbers[index])
        value, fault = _parse(self._file.read(end - start, start).strip(), f"{self._file.source}:{number}")
        faults = () if fault is None else (fault,)
        return RawRecord(source=self._file.source, index=index, line=number, value=value, faults=faults)


def _find_lines(file: DataFile, start: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64] | None]:
    """Find the lines that are not blank.

    Returns:
        Start and end of each in bytes; and their numbers, from 1, or None if no line is blank.
    """
    ends: list[NDArray[np.int64]] = []
    openings = [np.zeros(1, np.uint8)]  # the first byte of each line; 0 if unknown
    position = start
    while block := file.read(_BLOCK, position):
        values = np.frombuffer(block, np.uint8)
        newlines = np.flatnonzero(values == ord("\n"))
        ends.append(newlines + position)
        openings.append(np.append(values, np.uint8(0))[newlines + 1])
        position += len(block)
    line_ends = np.concatenate([*ends, np.array([position])]).astype(np.int64)
    starts = np.concatenate([np.array([start]), line_ends[:-1] + 1]).astype(np.int64)
    keep = line_ends > starts
    for line in np.flatnonzero(keep & np.isin(np.concatenate(openings), _MAY_BE_BLANK)):
        first, last = int(starts[line]), int(line_ends[line])
        keep[line] = bool(file.read(last - first, first).strip())
    if keep.all():
        return starts, line_ends, None
    return starts[keep], line_ends[keep], np.flatnonzero(keep) + 1


def _parse(line: bytes, where: str) -> tuple[object, Problem | None]:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        found = f"byte 0x{line[error.start]:02x}, which is not UTF-8"
        return None, Problem("D104", where, found, "UTF-8 text", "save the file as UTF-8")
    try:
        value, end = DECODER.raw_decode(text)
    except json.JSONDecodeError as error:
        if is_cut_off(text, error):
            found = f"the end of the line inside {quote(text[-40:])}"
            fix = "write the whole record on one line, or copy the file again if it ends here"
            return None, Problem("D103", where, found, "one whole record on the line", fix)
        return None, _syntax(where, text, error.pos, error.msg.removesuffix(" at"))
    except RecursionError:
        return None, _syntax(where, text, 0, "Nested too deeply")
    if text[end:].strip():
        return None, _syntax(where, text, end, "a second value on the line")
    return value, None


def _syntax(where: str, text: str, position: int, message: str) -> Problem:
    start = max(0, position - 39)
    shown = quote(text[start : start + 56])
    return Problem("D102", f"{where}:{position + 1}", f"{shown} ({message})", "one JSON object", "correct this line")
