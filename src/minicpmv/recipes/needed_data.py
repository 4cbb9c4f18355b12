"""Says where data have nothing of what a task is about, such as films: its recipe would train on them all the same."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import cast

from minicpmv.data.records.boxes import find_click
from minicpmv.data.records.reading import open_records
from minicpmv.data.records.record import RawRecord

__all__ = ["describe_lack"]

_MOST_READ = 1000
"""Records of each file that are looked at."""


def _holds(key: str) -> Callable[[RawRecord], bool]:
    return lambda record: isinstance(record.value, dict) and bool(cast("dict[str, object]", record.value).get(key))


def _answers(is_one: Callable[[str], bool]) -> Callable[[RawRecord], bool]:
    return lambda record: any(role == "assistant" and is_one(text) for _, role, text in record.messages())


_holds_objects = _holds("objects")
_answers_with_boxes = _answers(lambda text: "<box>" in text)
_NEEDED: Mapping[str, tuple[str, Callable[[RawRecord], bool]]] = {
    "film": ("a film, under 'video'", _holds("video")),
    "grounding": (
        "a box, as <box> in an answer or under 'objects'",
        lambda record: _holds_objects(record) or _answers_with_boxes(record),
    ),
    "gui": ("an answer with a place to click", _answers(lambda text: find_click(text) is not None)),
    "fields": ("an answer with JSON", _answers(lambda text: "{" in text)),
}
"""By task, the content that at least one record needs, in words and as a test. Other tasks need nothing, or training
refuses records without it."""


def describe_lack(task: str, data: Sequence[str]) -> str | None:
    """Return a notice if no record has what the task is about; None if one has, or a file is missing.

    Args:
        task: One of ``TASKS``.
        data: Files of sound records, each with its weight, if it has one, behind a colon.

    Raises:
        DataError: A file cannot be read.
    """
    paths = [each.partition(":")[0] for each in data]
    if task not in _NEEDED or not all(map(os.path.exists, paths)):
        return None
    what, has = _NEEDED[task]
    if any(map(has, _first_records(paths))):
        return None
    return (
        f"{', '.join(data)}: found no record with {what} (of the first {_MOST_READ:,} of each file), which the task "
        f"{task} is about. The recipe is written all the same; another task may fit (`minicpmv init --help`)"
    )


def _first_records(paths: Sequence[str]) -> Iterable[RawRecord]:
    for path in paths:
        yield from islice(open_records(path, on_notice=lambda _: None), _MOST_READ)
