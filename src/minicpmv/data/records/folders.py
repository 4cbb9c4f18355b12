"""Decides which files of a folder are read as data, and names those that may be meant but are not read."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn, cast

from minicpmv.data.records.formats.containers import tables
from minicpmv.data.records.formats.containers.wrappers import is_registry
from minicpmv.errors import DataError, Problem
from minicpmv.terminal.escapes import remember_names
from minicpmv.wording import counted, name_few

__all__ = ["DATA_SUFFIXES", "data_folder", "describe_unread", "find_files"]

_TEXT_SUFFIXES = (".json", ".jsonl", ".ndjson", ".json5", ".csv", ".tsv")
DATA_SUFFIXES = (*_TEXT_SUFFIXES, *(f"{suffix}.gz" for suffix in _TEXT_SUFFIXES), ".parquet", ".arrow")
"""Endings of files that are read as data in a folder."""
_PASSED_OVER = (
    ".7z",
    ".bz2",
    ".db",
    ".gz",
    ".lz4",
    ".pickle",
    ".pkl",
    ".rar",
    ".sqlite",
    ".tar",
    ".tfrecord",
    ".tgz",
    ".xls",
    ".xlsx",
    ".xz",
    ".yaml",
    ".yml",
    ".zip",
    ".zst",
)
"""Endings of files that may hold records in a form that is not read."""
_DESCRIPTIONS = ("dataset_info.json", "dataset_infos.json")
"""Files in a folder that describe the others: LLaMA-Factory's list of data sets, Hugging Face's features."""
_REGISTERED = ("columns", "tags", "formatting", "ranking", "split", "subset", "folder", "num_samples")
"""Keys with which a list of data sets states how to read a file."""


def find_files(path: str | os.PathLike[str]) -> list[str]:
    """List the data files of a path: the file itself, a folder's data files by name, or a dataset directory.

    Raises:
        DataError: There are no data files.
    """
    source = os.fspath(path)
    folder = Path(source)
    if not os.path.isdir(source) or tables.is_dataset_directory(folder):
        return [source]
    if os.path.isfile(folder / "dataset_dict.json"):
        splits = sorted(entry.name for entry in folder.iterdir() if tables.is_dataset_directory(entry))
        found = f"a dataset of several splits: {', '.join(splits)}"
        _fail("D101", source, found, "one split", f"name it: {os.path.join(source, splits[0] if splits else 'train')}")
    names = _list_folder(source)
    files = [name for name in names if name.lower().endswith(DATA_SUFFIXES) and not _is_passed_over(name)]
    files = [name for name in files if not os.path.isdir(folder / name)]
    if not files:
        others = [name for name in names if name.lower().endswith(_PASSED_OVER)]
        found = f"a folder without data files, but with {name_few(others)}" if others else "a folder without data files"
        fix = "name the file inside the folder, or give it one of these endings"
        _fail("D101", source, found, f"files ending in {', '.join(DATA_SUFFIXES)}", fix)
    return [os.path.join(source, name) for name in files]


def _list_folder(folder: str) -> list[str]:
    try:
        names = sorted(os.listdir(folder))
        remember_names(names)
        return names
    except OSError as error:
        found, fix = f"a folder that cannot be read ({error.strerror})", "ask its owner for access: chmod a+rx FOLDER"
        raise DataError([Problem("D101", folder, found, "a folder of data files", fix)]) from error


def _fail(code: str, where: str, found: str, expected: str, fix: str) -> NoReturn:
    raise DataError([Problem(code, where, found, expected, fix)])


def _is_passed_over(name: str) -> bool:
    return name.startswith(".") or name in _DESCRIPTIONS


def describe_unread(folder: str, files: Sequence[str]) -> list[Problem]:
    """Return notices about files in a folder that may be meant but are not read."""
    names = {os.path.basename(file) for file in files}
    unread = [name for name in _list_folder(folder) if name not in names and not name.startswith(".")]
    notices: list[Problem] = []
    if others := [name for name in unread if name.lower().endswith(_PASSED_OVER)]:
        found = f"{counted(len(others), 'file')} of other kinds: {name_few(others)}"
        expected = f"files ending in {', '.join(DATA_SUFFIXES)}; only such files are read, here {len(files)}"
        fix = "nothing, if these are no data; else give one by itself, and a message will say how to unpack or convert"
        notices.append(Problem("D332", folder, found, expected, fix, severity="notice"))
    if _DESCRIPTIONS[0] in unread and (notice := _describe_registry(folder)):
        notices.append(notice)
    return notices


def _describe_registry(folder: str) -> Problem | None:
    """Return a notice that LLaMA-Factory's list of data sets is not followed, with its content."""
    where = os.path.join(folder, _DESCRIPTIONS[0])
    try:
        registry = json.loads(Path(where).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if isinstance(registry, list):
        found, fix = "a list, in a file of a name that describes other files", "rename it if it holds records"
        return Problem("D332", where, found, "no records under this name; not read", fix, severity="notice")
    if not isinstance(registry, dict) or not is_registry(cast("dict[str, object]", registry)):
        return None  # Hugging Face's, of features and splits
    entries = cast("dict[str, dict[str, object]]", registry)
    told = [f"{name} ({', '.join(keys)})" for name, entry in entries.items() if (keys := _told(entry))]
    found = f"a list of {len(entries)} data sets, as LLaMA-Factory's"
    found += f", which says how to read {name_few(told)}" if told else ""
    expected = "data files alone; they are read as they are, and the list is not followed"
    fix = "name the files that are meant, and make sure that their keys are those of docs/data.md"
    return Problem("D332", where, found, expected, fix, severity="notice")


def _told(entry: dict[str, object]) -> list[str]:
    return [key for key in _REGISTERED if key in entry]


def data_folder(source: str) -> str:
    """Return the folder where relative image paths of a record with this ``source`` start."""
    return str(Path(source) if os.path.isdir(source) else Path(source).parent)
