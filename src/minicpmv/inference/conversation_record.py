"""Saves a conversation as one record of training data, with its pictures embedded, so that the file can be moved.

Films are too large for that: the record has their paths in full, with what was asked of their frames.
The record is checked like any other before it is written, so it can be trained on, and reads like the conversation.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from minicpmv.data.checks.checking import RecordChecker
from minicpmv.data.media.opened_films import ReadFilm
from minicpmv.data.records.formats.styles import to_own_form
from minicpmv.data.records.inline_images import data_url
from minicpmv.data.records.record import RawRecord
from minicpmv.errors import DataError, ImageError, UsageError
from minicpmv.files.atomic_files import write_whole
from minicpmv.inference.chat import Conversation
from minicpmv.processing.films.shown import OpenedFilm
from minicpmv.processing.text.thinking import without_thinking

__all__ = ["save_record"]

_MARKS = {"image": "<image>\n", "video": "<video>\n"}


def save_record(conversation: Conversation, path: str | Path) -> None:
    """Write a conversation as a data file of one record, or add it as a line where the file ends in ``.jsonl``.

    Raises:
        UsageError: The conversation is empty, or the file cannot be written or already exists.
        DataError: The conversation cannot be trained on, for example because of an empty answer.
        ImageError: A picture that was shown no longer exists.
    """
    file = Path(path)
    record = _make(conversation)
    version = conversation.loaded.processor.version
    raw = to_own_form(RawRecord(source="record", index=0, line=None, value=record))
    if problems := list(RecordChecker(version=version).check(raw)):
        raise DataError(problems)
    is_added = file.suffix == ".jsonl"
    if file.exists() and not is_added:
        raise UsageError(
            f"{file}: found a file of this name, expected a new one\n"
            "  fix: name another file, or one that ends in .jsonl, which gets the record as one more line"
        )
    try:
        if is_added:
            with file.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(record, ensure_ascii=False) + "\n")
        else:
            write_whole(file, json.dumps([record], ensure_ascii=False, indent=2) + "\n")
    except OSError as error:
        raise UsageError(
            f"{file}: found it impossible to write ({error.strerror}), expected a place for the record\n"
            "  fix: name a file in a folder that is there"
        ) from error


def _make(conversation: Conversation) -> dict[str, Any]:
    exchanges = conversation.exchanges
    if not exchanges:
        raise UsageError("record: found no question yet, expected at least one with its answer\n  fix: ask first")
    messages: list[dict[str, Any]] = []
    for message in conversation.messages():
        parts = message["content"]
        shown = "".join(_MARKS.get(part["type"], "") for part in parts)
        text = "".join(part["text"] for part in parts if part["type"] == "text")
        messages.append({**message, "content": shown + text})
    # The model does not read the thoughts of earlier answers when the dialogue continues with a question.
    asked = max(position for position, exchange in enumerate(exchanges) if not exchange.results)
    answers = [message for message in messages if message["role"] == "assistant"]
    for message in answers[:asked]:
        message["content"] = without_thinking(message["content"])
    images = [_read(image) for exchange in exchanges for image in exchange.images]
    tools = {"tools": list(conversation.tools)} if conversation.tools else {}
    films = [_describe(film) for exchange in exchanges for film in exchange.films]
    shown = ({"image": images} if images else {}) | ({"videos": films} if films else {})
    return shown | tools | {"conversations": messages}


def _describe(opened: OpenedFilm) -> Any:
    if not isinstance(opened, ReadFilm):
        raise UsageError(
            "record: found a film that was sent and is not kept, expected pictures or films with a place\n"
            "  fix: ask about its file with minicpmv chat --video, and /save that"
        )
    film = opened.film
    paths = [film.source] if isinstance(film.source, str) else film.source
    places = [str(Path(path).absolute()) for path in paths]
    asked = {key: value for key, value in asdict(film.request).items() if value is not None}
    return {"video": places[0] if isinstance(film.source, str) else places, **asked}


def _read(image: str) -> str:
    try:
        return data_url(Path(image).read_bytes())
    except OSError as error:
        raise ImageError(
            where=image, found=error.strerror or "no file", expected="the picture that was shown", fix="put it back"
        ) from error
