"""Reads messages in transformers' multimodal format: a role, and a text or a list of text, image and video parts.

The official ``chat()`` lists, in which a bare string is a text and a bare PIL image is an image, are read as well.
Whether the roles fit the model is decided where the conversation is rendered.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from minicpmv.errors import UsageError
from minicpmv.processing.films.request import REQUEST_KEYS
from minicpmv.processing.films.shown import OpenedFilm, OpenFilm
from minicpmv.processing.pictures.patches import ImageSource
from minicpmv.processing.text.tool_calls import ToolCall, ToolFault, make_call, read_calls, read_tools, to_json
from minicpmv.processing.text.turns import FilmRef, ImageRef, Part, Turn, announce_tools
from minicpmv.wording import name_type

__all__ = ["read_messages"]

_HALF = re.compile("[\ud800-\udfff]")
_ROLES = ("system", "user", "assistant", "tool")
_IMAGE_KEYS = ("image", "path", "url", "base64")
_MEANINGFUL = {
    "reasoning_content": "write it as <think>...</think> at the start of the content",
    "reasoning": "write it as <think>...</think> at the start of the content",
    "thinking": "write it as <think>...</think> at the start of the content",
}
"""Keys of a message that other formats write into the text; passing over them in silence would lose what they hold."""
_FILM_KEYS = ("video", "path", "url")
_FIX_OF_KIND = {
    "audio": "leave it out: this version reads pictures and text",
}
"""What to do with a part whose type contains a word."""


def read_messages(
    messages: Sequence[Any],
    *,
    where: str = "conversation",
    tools: Any = None,
    open_film: OpenFilm | None = None,
) -> tuple[list[Turn], list[ImageSource], list[OpenedFilm]]:
    """Split messages into turns and the images and films they show, each in the order of the text.

    Args:
        messages: One conversation.
        where: What to call it in an error.
        tools: Functions that the model may call, in OpenAI's form, if any.
        open_film: Opens a film that a message names by its path; without it, films must be opened.

    Raises:
        UsageError: A message or a part of one is not understood.
        MiniCPMVError: ``open_film`` refuses a film.
    """
    turns: list[Turn] = []
    images: list[ImageSource] = []
    films: list[OpenedFilm] = []
    for number, message in enumerate(messages):
        place = f"{where}[{number}]"
        calls = _read_calls(message, place) if isinstance(message, Mapping) else ()
        if calls and message.get("content") is None:
            message = {**message, "content": ""}
        if not isinstance(message, Mapping) or "role" not in message or "content" not in message:
            found = f"the keys {sorted(map(str, message))}" if isinstance(message, Mapping) else _kind(message)
            raise _error(place, found, "a message with 'role' and 'content'", "write {'role': 'user', 'content': ...}")
        for key, fix in _MEANINGFUL.items():
            if message.get(key):
                raise _error(f"{place}.{key}", "a key that the format does not write", "only role and content", fix)
        role, content = message["role"], message["content"]
        if role not in _ROLES:
            raise _error(f"{place}.role", repr(role), f"one of {', '.join(_ROLES)}", "use one of those roles")
        if isinstance(content, str):
            turns.append(Turn(role, (content,), calls=calls))
            continue
        if not isinstance(content, (list, tuple)) or not content:
            raise _error(
                f"{place}.content",
                "an empty list" if isinstance(content, (list, tuple)) else _kind(content),
                "a text, or a list of parts",
                "write [{'type': 'text', 'text': ...}]",
            )
        parts: list[Part] = []
        for position, part in enumerate(content):
            value = _read_part(part, f"{place}.content[{position}]", open_film)
            if isinstance(value, _Image):
                parts.append(ImageRef(len(images)))
                images.append(value.source)
            elif isinstance(value, _Film):
                parts.append(FilmRef(len(films)))
                films.append(value.source)
            else:
                parts.append(value)
        turns.append(Turn(role, tuple(parts), calls=calls))
    for number, turn in enumerate(turns):
        halves = _HALF.findall("".join(part for part in turn.content if isinstance(part, str)))
        if halves:
            found = f"half of a surrogate pair: {halves[0]!r}"
            raise _error(f"{where}[{number}].content", found, "characters that UTF-8 can write", "write the text again")
    return _announce(tools, turns), images, films


def _read_calls(message: Mapping[str, Any], place: str) -> tuple[ToolCall, ...]:
    if not message.get("tool_calls"):
        return ()
    try:
        return tuple(make_call(call) for call in read_calls(message["tool_calls"]))
    except ToolFault as fault:
        raise _error(f"{place}.tool_calls{fault.place}", fault.found, fault.expected, fault.fix) from fault


def _announce(tools: Any, turns: list[Turn]) -> list[Turn]:
    """Put tools into the system turn, which is added where there is none."""
    if not tools:
        return turns
    try:
        listed = tuple(to_json(tool) for tool in read_tools(tools))
    except ToolFault as fault:
        raise _error(f"tools{fault.place}", fault.found, fault.expected, fault.fix) from fault
    return announce_tools(listed, turns)


class _Image:
    def __init__(self, source: ImageSource) -> None:
        self.source = source


class _Film:
    def __init__(self, source: OpenedFilm) -> None:
        self.source = source


def _read_part(part: Any, where: str, open_film: OpenFilm | None) -> str | _Image | _Film:
    if isinstance(part, str):
        return part
    if isinstance(part, Image.Image):
        return _Image(part)
    kinds = "a part of type 'text', 'image' or 'video'"
    if not isinstance(part, Mapping):
        raise _error(where, _kind(part), kinds, "write {'type': 'text', 'text': ...}")
    kind = part.get("type")
    if kind == "text":
        if not isinstance(part.get("text"), str):
            raise _error(f"{where}.text", _kind(part.get("text")), "a string", "write {'type': 'text', 'text': ...}")
        return part["text"]
    if kind == "image":
        given = [key for key in _IMAGE_KEYS if part.get(key) is not None]
        if len(given) != 1:
            raise _error(
                where,
                "an image part without an image" if not given else f"an image part with {' and '.join(given)}",
                "exactly one image",
                "write {'type': 'image', 'image': path or PIL image}",
            )
        value = part[given[0]]
        return _Image(f"data:image;base64,{value}" if given[0] == "base64" else value)
    if kind == "image_url":  # as OpenAI's interface has it
        address = part.get("image_url")
        value = address.get("url") if isinstance(address, Mapping) else address
        if not isinstance(value, str):
            raise _error(f"{where}.image_url", _kind(value), "a string", "write {'type': 'image', 'image': path}")
        return _Image(value)
    if kind in ("video", "video_url"):
        return _Film(_read_film(part, where, open_film))
    raise _error(
        f"{where}.type",
        repr(kind) if "type" in part else "none",
        kinds,
        next((fix for word, fix in _FIX_OF_KIND.items() if word in str(kind)), "use 'text' or 'image'"),
    )


def _read_film(part: Mapping[str, Any], where: str, open_film: OpenFilm | None) -> OpenedFilm:
    """Return the film of a part: opened by the caller, or here by its path, with what the part asks of its frames."""
    value: Any = next((part[key] for key in (*_FILM_KEYS, "video_url") if part.get(key) is not None), None)
    if isinstance(value, Mapping) and isinstance(value.get("url"), str):  # as OpenAI's interface has it
        value = value["url"]
    asked = {key: part[key] for key in REQUEST_KEYS if part.get(key) is not None}
    opened: Any = value
    if all(hasattr(opened, name) for name in ("facts", "request", "read")):
        if asked:
            name = next(iter(asked))
            fix = f"give {name} where the film is opened"
            raise _error(f"{where}.{name}", "it beside an opened film", "a path beside it", fix)
        return opened
    is_path = isinstance(value, (str, os.PathLike))
    is_list = isinstance(value, (list, tuple)) and all(isinstance(frame, (str, os.PathLike)) for frame in value)
    if open_film is None or not (is_path or is_list):
        found = "a video part without a film" if value is None else f"{value!r:.60}"
        fix = "write {'type': 'video', 'video': path}; frames that are pictures already are parts of type 'image'"
        raise _error(where, found, "the path of a film, or the paths of its frames", fix)
    source: Any = value
    return open_film(os.fspath(source) if is_path else [os.fspath(frame) for frame in source], **asked)


def _kind(value: Any) -> str:
    return "nothing" if value is None else name_type(value)


def _error(where: str, found: str, expected: str, fix: str) -> UsageError:
    return UsageError(f"{where}: found {found}, expected {expected}\n  fix: {fix}")
