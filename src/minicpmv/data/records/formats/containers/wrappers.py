"""Finds the records in an object where a list was expected: they may be a list under one of its keys.

``{"data": [...]}`` is read, since it is unambiguous; for ``{"train": [...], "test": [...]}``, the
user must choose.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from typing import Literal, NoReturn, cast

from minicpmv.data.records.record import quote
from minicpmv.errors import DataError, Problem
from minicpmv.wording import name_few

__all__ = ["find_list", "is_registry", "left_aside"]

_RECORD_KEYS = ("conversations", "messages")
"""Keys that make an object a record, so that no list in it holds records."""
_MESSAGE_KEYS = ({"role", "content"}, {"from", "value"}, {"type", "text"})
"""Keys of a conversation's entries: a list of those is not a list of records, whatever its name."""
_REGISTRY_KEYS = {
    "annotation",
    "json_path",
    "file_name",
    "hf_hub_url",
    "ms_hub_url",
    "om_hub_url",
    "script_url",
    "cloud_file_name",
}
_NAMED = 5


def find_list(value: Mapping[str, object], source: str, *, module: Literal["json", "json5"]) -> str:
    """Return the key of a file's records.

    Args:
        value: The whole content of the file.
        source: The file, as the user wrote it.
        module: Module that reads the file.

    Raises:
        DataError: There is no list of objects, or there are several.
    """
    is_record = any(key in value for key in _RECORD_KEYS)
    lists = [] if is_record else [key for key, entry in value.items() if _is_record_list(entry)]
    if len(lists) == 1:
        return lists[0]
    if {"images", "annotations"} <= {*lists}:
        found = "COCO's object of 'images' and 'annotations'"
        fix = "write a record for each image, with a question and an answer made of its annotations"
        _fail("D105", source, found, "a list of records", fix)
    if lists:
        sizes = ", ".join(f"{key!r} ({len(cast('list[object]', value[key])):,})" for key in lists)
        fix = f"write the one that is meant into a file of its own: {_extract(source, lists[0], module)}"
        _fail("D171", source, f"several lists of objects in one object: {sizes}", "one list of records", fix)
    if is_registry(value):
        is_internvl = any("annotation" in cast("dict[str, object]", entry) for entry in value.values())
        found = f"a list of data sets, as {'InternVL' if is_internvl else 'LLaMA-Factory'}'s: {_named(value)}"
        fix = "name the data file itself"
        if is_internvl:
            fix = "name the file under 'annotation' itself; 'root' is the image root"
        _fail("D105", source, found, "a list of records", fix)
    if deeper := _find_deeper(value):
        found = f"the records under {deeper[0]!r} of {deeper[1]!r}"
        _fail("D105", source, found, "a list of records", "write that list alone into a file of its own")
    if len(value) > 1 and not is_record and all(isinstance(entry, dict) and len(entry) > 1 for entry in value.values()):
        found = f"an object of {len(value):,} objects, with the keys {_named(value)}"
        fix = f"if they are the records, write them as a list: {_extract(source, None, module)}"
        _fail("D105", source, found, "a list of records", fix)
    fix = "write [ before the first record and ] after the last"
    _fail("D105", source, "one object", "a list of records", fix)


def is_registry(value: Mapping[str, object]) -> bool:
    """Return whether an object lists data sets and their files, instead of records."""
    return bool(value) and all(isinstance(entry, dict) and _REGISTRY_KEYS & entry.keys() for entry in value.values())


def left_aside(value: Mapping[str, object], key: str, source: str) -> Problem:
    """Return a notice that the records are the list under a key, with the other keys."""
    others = [name for name in value if name != key]
    beside = f" next to {name_few(map(quote, others))}" if others else ""
    found = f"the records under the key {key!r} of an object{beside}"
    expected = "a list of records; that one is read, and nothing else of the object"
    fix = "nothing, if those are the records; else write those that are meant as a list, into a file of its own"
    return Problem("D330", source, found, expected, fix, severity="notice")


def _is_record_list(value: object) -> bool:
    if not isinstance(value, list):
        return False
    first = next(iter(cast("list[object]", value)), None)
    return isinstance(first, dict) and not any(keys <= first.keys() for keys in _MESSAGE_KEYS)


def _find_deeper(value: Mapping[str, object]) -> tuple[str, str] | None:
    """Return the keys of the one list of records in an object of objects, inner and outer."""
    found = [
        (inner, outer)
        for outer, entry in value.items()
        if isinstance(entry, dict)
        for inner, inside in cast("dict[str, object]", entry).items()
        if inner not in _RECORD_KEYS and _is_record_list(inside)
    ]
    return found[0] if len(found) == 1 else None


def _named(value: Mapping[str, object]) -> str:
    return ", ".join(map(quote, list(value)[:_NAMED])) + (", ..." if len(value) > _NAMED else "")


def _extract(source: str, key: str | None, module: str) -> str:
    """Return the command that writes the list under a key, or all values, into a file of its own."""
    part, name = ("[sys.argv[3]]", key) if key is not None else (".values()", "records")
    code = (
        f"import json, {module}, sys; json.dump(list({module}.load(open(sys.argv[1])){part}), open(sys.argv[2], 'w'))"
    )
    code = code.replace("json, json,", "json,")
    safe = "".join(letter if letter.isalnum() else "_" for letter in name or "")[:40]
    target = f"{os.path.splitext(source)[0]}_{safe}.json"
    arguments = [source, target] if key is None else [source, target, key]
    return f'python -c "{code}" {shlex.join(arguments)}'


def _fail(code: str, where: str, found: str, expected: str, fix: str) -> NoReturn:
    raise DataError([Problem(code, where, found, expected, fix)])
