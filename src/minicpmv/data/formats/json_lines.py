"""JSON Lines: one record per line. A line that cannot be read is a fault of that line, and hides no other."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator

from minicpmv.data.formats.json_list import DECODER, is_cut_off
from minicpmv.data.records import RawRecord, quote
from minicpmv.errors import Problem

__all__ = ["SUFFIXES", "is_json_lines", "parse_lines"]

SUFFIXES = (".jsonl", ".ndjson")
"""Names that decide where the content does not."""


def is_json_lines(data: bytes, *, named_so: bool) -> bool:
    """Tell JSON Lines from a list of records.

    A list begins with ``[``. Several lines of which one of the first two is an object by itself are JSON Lines;
    anything else, such as a single object, is what its name says.

    Args:
        data: The whole file.
        named_so: Its name ends as JSON Lines files do.
    """
    start = data[:4096].lstrip()[:1]
    if start == b"[":
        return False
    if named_so or start != b"{":
        return named_so
    first = list(itertools.islice((line for _, line in _lines(data)), 2))
    return len(first) > 1 and any(_is_object(line) for line in first)


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _lines(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield number and content of each line that is not blank."""
    start = 0
    for number in itertools.count(1):
        if start >= len(data):
            return
        end = data.find(b"\n", start)
        end = len(data) if end < 0 else end
        line = data[start:end].strip()
        if line:
            yield number, line
        start = end + 1


def parse_lines(data: bytes, source: str) -> Iterator[RawRecord]:
    """Yield a record for every line that is not blank; those that cannot be read carry their fault."""
    for index, (number, line) in enumerate(_lines(data)):
        value, fault = _parse(line, f"{source}:{number}")
        yield RawRecord(source=source, index=index, line=number, value=value, faults=() if fault is None else (fault,))


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
