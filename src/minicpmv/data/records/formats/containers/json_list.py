"""Reads a list of records: as JSON first, as JSON5 if that fails.

The text is parsed once to find its records, and each record again on access: parsed records would take
several times the memory. Only faults that keep the file from being read are judged here; see ``checking`` for
the rest.
"""

from __future__ import annotations

import json
import logging
import re
import shlex
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn, cast

import json5

from minicpmv.data.records.formats.containers.wrappers import find_list, left_aside
from minicpmv.data.records.record import RawRecord, quote
from minicpmv.data.records.sequences import LazySequence
from minicpmv.errors import DataError, Problem

__all__ = ["DECODER", "RepeatedKeys", "is_cut_off", "make_object", "mark_like", "parse_json_list"]

_logger = logging.getLogger(__name__)

MAX_JSON5_BYTES = 5_000_000
"""Larger files must be strict JSON. The JSON5 reader reads about 75 kB a second, so this takes a minute."""

_MOST_DIGITS = 1000
"""Most digits of a whole number. Python's limit is 4,300; no record needs more than an id has."""

_SPACE = re.compile(r"[ \t\n\r]*")
_JSON5_ERROR = re.compile(r"<string>:(?P<line>\d+) (?P<message>.*) at column (?P<column>\d+)", re.DOTALL)
_CONVERT = (
    "python -c \"import json, json5, sys; json.dump(json5.load(open(sys.argv[1], encoding='utf-8')), "
    "open(sys.argv[2], 'w'))\" {0} converted.json"
)


class RepeatedKeys(dict[str, object]):
    """Marks an object with repeated keys. JSON keeps the last; ``checking`` reports it, so that nothing is lost.

    Args:
        pairs: Keys and values as written.
    """

    def __init__(self, pairs: Iterable[tuple[str, object]]) -> None:
        pairs = list(pairs)
        super().__init__(pairs)
        counts = Counter(key for key, _ in pairs)
        self.repeated = tuple(key for key, count in counts.items() if count > 1)


def mark_like(original: Mapping[str, object], made: dict[str, object]) -> dict[str, object]:
    """Carry over the mark of repeated keys from the original to ``made``."""
    if not isinstance(original, RepeatedKeys):
        return made
    marked = RepeatedKeys(made.items())
    marked.repeated = original.repeated
    return marked


def parse_json_list(text: str, source: str, *, on_notice: Callable[[Problem], None]) -> Sequence[RawRecord]:
    """Parse a list of records, each with the line on which it begins (None for JSON5).

    Args:
        text: Text of the file.
        source: The file, as the user wrote it.
        on_notice: Called if the list is the value of a key of an object.

    Raises:
        DataError: The text is neither JSON nor JSON5, or is not a list, nor an object with one list of records.
    """
    try:
        return JsonList(text, source, on_notice=on_notice)
    except json.JSONDecodeError as error:
        values = _parse_json5(text, source, error, on_notice)
        return [RawRecord(source=source, index=index, line=None, value=value) for index, value in enumerate(values)]


def _fail(code: str, where: str, found: str, expected: str, fix: str) -> NoReturn:
    raise DataError([Problem(code, where, found, expected, fix)])


def make_object(pairs: Iterable[tuple[str, Any]]) -> dict[str, object]:
    """Make a dict as JSON decoders do, marking repeated keys."""
    entries = list(pairs)
    made = dict(entries)
    return made if len(made) == len(entries) else RepeatedKeys(entries)


def _read_integer(digits: str, base: int = 10) -> int | float:
    """Read a whole number; as a float, which no field accepts, if Python refuses to convert thousands of digits."""
    return int(digits, base) if len(digits) <= _MOST_DIGITS else float("inf")


DECODER = json.JSONDecoder(object_pairs_hook=make_object, parse_int=_read_integer)
"""Decoder that reads one value and returns its end."""


class JsonList(LazySequence[RawRecord]):
    """Holds the records of a list in strict JSON.

    Args:
        text: Text of the file.
        source: The file, as the user wrote it.
        on_notice: As for ``parse_json_list``.

    Raises:
        json.JSONDecodeError: The text is not strict JSON.
        DataError: The text is strict JSON, but not a list.
    """

    def __init__(self, text: str, source: str, *, on_notice: Callable[[Problem], None]) -> None:
        self._text = text
        self._source = source
        self._lines, self._starts = _find_records(text, source, on_notice)

    def __len__(self) -> int:
        return len(self._starts)

    def _item(self, index: int) -> RawRecord:
        value, _ = DECODER.raw_decode(self._text, self._starts[index])
        return RawRecord(source=self._source, index=index, line=self._lines[index], value=value)


def _find_records(text: str, source: str, on_notice: Callable[[Problem], None]) -> tuple[array[int], array[int]]:
    """Find the list of records, at the top or under a key, and the line and first character of each record."""
    position = _skip(text, 0)
    if text[position : position + 1] == "[":
        lines, starts, end = _find_entries(text, position)
        rest = _skip(text, end)
        if rest < len(text):
            raise json.JSONDecodeError("Extra data", text, rest)
        return lines, starts
    value, end = _decode(text, position)
    if not isinstance(value, dict) or text[end:].strip():
        _refuse_top_level(value, text[end:], source)
    fields = cast("dict[str, object]", value)
    key = find_list(fields, source, module="json")
    on_notice(left_aside(fields, key, source))
    lines, starts, _ = _find_entries(text, _find_value(text, position, key))
    return lines, starts


def _decode(text: str, position: int) -> tuple[object, int]:
    try:
        return DECODER.raw_decode(text, position)
    except RecursionError:
        raise json.JSONDecodeError("Nested too deeply", text, position) from None


def _find_value(text: str, position: int, key: str) -> int:
    """Return the start of a key's value, the last one if repeated, in a valid object."""
    found = position
    position = _skip(text, position + 1)
    while text[position] != "}":
        name, end = _decode(text, position)
        position = _skip(text, _skip(text, end) + 1)  # after the colon
        if name == key:
            found = position
        _, end = _decode(text, position)
        position = _skip(text, end)
        if text[position] == ",":
            position = _skip(text, position + 1)
    return found


def _find_entries(text: str, position: int) -> tuple[array[int], array[int], int]:
    """Parse a list entry by entry.

    Args:
        text: Text of the file.
        position: Position of the opening bracket.

    Returns:
        The line of each entry, from 1; its first character; and the end of the list.
    """
    lines, starts = array("q"), array("q")
    line, counted = 1, 0
    position = _skip(text, position + 1)
    closed = text[position : position + 1] == "]"
    while not closed:
        line, counted = line + text.count("\n", counted, position), position
        _, end = _decode(text, position)
        lines.append(line)
        starts.append(position)
        position = _skip(text, end)
        closed = text[position : position + 1] == "]"
        if not closed and text[position : position + 1] != ",":
            raise json.JSONDecodeError("Expecting ',' delimiter", text, position)
        if not closed:
            position = _skip(text, position + 1)
    return lines, starts, position + 1


def _skip(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return position if match is None else match.end()


def _refuse_top_level(value: object, rest: str, source: str) -> NoReturn:
    """Refuse a value that is neither a list nor an object, or an object with something after it."""
    fix = "write [ before the first record and ] after the last"
    if isinstance(value, dict) and rest.lstrip()[:1] == "{":
        _fail(
            "D105",
            source,
            "several objects",
            "a list of records, or one record per line",
            f"{fix}, and a comma between",
        )
    found = "one object" if isinstance(value, dict) else "null" if value is None else quote(value)
    _fail("D105", source, found, "a list of records", fix)


def _parse_json5(
    text: str, source: str, strict: json.JSONDecodeError, on_notice: Callable[[Problem], None]
) -> list[object]:
    """Parse text that strict JSON refused.

    Raises:
        DataError: The text is not JSON5 either, or too large to try.
    """
    if is_cut_off(text, strict):
        _fail_cut_off(text, source)
    if not _json5_may_help(text, strict):
        _fail_syntax(text, source, line=strict.lineno, column=strict.colno, message=strict.msg.removesuffix(" at"))
    if len(text) > MAX_JSON5_BYTES:
        _fail_syntax(
            text,
            source,
            line=strict.lineno,
            column=strict.colno,
            message=strict.msg.removesuffix(" at"),
            fix=f"mend it, or if the file is meant as JSON5, convert it once: {_CONVERT.format(shlex.quote(source))}",
        )
    _logger.warning(
        "%s:%d:%d: not strict JSON (%s); reading it as JSON5, which accepts single quotes and trailing commas "
        "but is slow. To convert it once: %s",
        source,
        strict.lineno,
        strict.colno,
        strict.msg,
        _CONVERT.format(shlex.quote(source)),
    )
    try:
        value = json5.loads(text, object_pairs_hook=make_object, parse_int=_read_integer)
    except RecursionError:
        _fail_syntax(text, source, line=strict.lineno, column=strict.colno, message="Nested too deeply")
    except ValueError as error:
        found = _JSON5_ERROR.fullmatch(str(error))
        if found is None or found["message"] == "Unexpected end of input":
            _fail_cut_off(text, source)
        _fail_syntax(text, source, line=int(found["line"]), column=int(found["column"]), message=found["message"])
    if isinstance(value, dict):
        fields = cast("dict[str, object]", value)
        key = find_list(fields, source, module="json5")
        on_notice(left_aside(fields, key, source))
        value = fields[key]
    if not isinstance(value, list):
        _refuse_top_level(value, "", source)
    return cast("list[object]", value)


def is_cut_off(text: str, error: json.JSONDecodeError) -> bool:
    """Return whether strict JSON failed because the text ends too early."""
    if error.msg.startswith("Unterminated string"):  # a string that a line break ends has the other message
        return True
    if error.msg.startswith("Invalid control character") and '"' not in text[error.pos :]:
        return True
    rest = text[error.pos :].strip()
    return not rest or any(word.startswith(rest) for word in ("true", "false", "null", "-"))


def _json5_may_help(text: str, error: json.JSONDecodeError) -> bool:
    """Return whether JSON5 could accept what strict JSON refused; a missing comma or colon is wrong in both."""
    stumble = text[error.pos]
    if error.msg.endswith("delimiter"):
        return stumble not in "\"'[{0123456789"
    if error.msg.startswith("Invalid control character"):
        return stumble not in "\r\n"
    return error.msg not in {"Nested too deeply", "Extra data"} or stumble == "/"


def _fail_cut_off(text: str, source: str) -> NoReturn:
    last = len(text.rstrip().splitlines()) or 1
    found = f"the end of the file inside {quote(text.rstrip()[-40:])}" if text.strip() else "an empty file"
    _fail("D103", f"{source}:{last}", found, "the list of records to be closed by ]", "copy or write the file again")


def _fail_syntax(
    text: str, source: str, *, line: int, column: int, message: str, fix: str = "correct this line or the one before"
) -> NoReturn:
    lines = text.splitlines()
    shown = lines[line - 1] if line <= len(lines) else ""
    start = max(0, column - 40)
    _fail("D102", f"{source}:{line}:{column}", f"{quote(shown[start : start + 56])} ({message})", "JSON", fix)
