"""Finds marks of other tools in the text that need something missing: a picture, a box, a film.

From such text the model would learn the letters, and see nothing. Our own placeholders are judged in
``placeholders``; marks that need nothing are a notice, in ``lint``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence

from minicpmv.data.checks.key_values import IMAGE_ENDINGS
from minicpmv.data.records.grounding import MARKS
from minicpmv.data.records.record import RawRecord, quote
from minicpmv.errors import Problem

__all__ = ["check_marks", "is_picture_mark"]

_NAMES_A_FILE = re.compile(
    r"<img>\s*(?P<img>[^<>\n]*[^<>\s])\s*</img>|<\|vision_start\|>(?P<vision>(?:(?!<\|).)+)<\|vision_end\|>"
)
_SHOWS_A_PICTURE = re.compile(
    r"<\|(?:image_pad|image|image_\d+|vision_start|image_start|IMG_CONTEXT|begin_of_image)\|>|<IMG_CONTEXT>|<start_of_image>"
    r"|<image_soft_token>|<image_placeholder>"
)
_BEHIND_A_PICTURE = re.compile(r"<\|(?:vision_end|image_end|end_of_image)\|>")
_FILM_OR_SOUND = re.compile(r"<(?P<kind>audio)>|<\|(?P<padded>video|audio)(?:_pad|_\d+)?\|>")
_MARKDOWN = re.compile(r"!\[[^\]\n]*\]\((?!https?:)(?P<path>[^)\n]+)\)")
_ENDING = re.compile(rf"\.(?:{'|'.join(sorted(IMAGE_ENDINGS))})\b", re.IGNORECASE)
_WORD = re.compile(r"[^\s<>\"'`()\[\]|]*$")
_AFTER_A_SIGN = re.compile(r"^.*[:=,;]")
"""Characters that may precede a path without a space: ``<image:cat.png>``, ``src=cat.png``."""
_IN_THE_TEXT = "the picture under 'image' of the record, and <image> in its place"
_MOST_CHARACTERS = 1024
"""Of a path."""


def check_marks(
    record: RawRecord,
    messages: Sequence[Mapping[str, str]],
    paths: Sequence[str | bytes],
    root: str | None,
    *,
    has_objects: bool,
    field: str = "conversations",
) -> Iterator[Problem]:
    """Yield at most one problem for each message.

    Args:
        record: The record, to name places.
        messages: Messages that have roles and texts.
        paths: The record's images, as written.
        root: Folder where relative paths start; with None, no files are looked up.
        has_objects: Whether it has names and boxes for their marks.
        field: Field of the record that holds the messages.
    """
    shown = {os.path.basename(path) for path in paths if isinstance(path, str)}
    for number, message in enumerate(messages):
        text, is_asked = message["content"], message["role"] != "assistant"
        told = None
        if "<" in text:
            told = _find_object_mark(text, field) if not has_objects else None
            told = told or _find_picture_mark(text, is_asked=is_asked)
        if told is None and is_asked:
            told = _find_path(text, shown, root)
        if told:
            found, expected, fix = told
            yield Problem("D161", record.where(f"{field}[{number}].content"), found, expected, fix)


def is_picture_mark(token: str) -> bool:
    """Return whether a mark stands for a picture or video, and is reported as such in a question."""
    return any(marks.fullmatch(token) for marks in (_SHOWS_A_PICTURE, _BEHIND_A_PICTURE, _FILM_OR_SOUND))


def _find_object_mark(text: str, field: str) -> tuple[str, str, str] | None:
    mark = MARKS.search(text)
    if mark is None:
        return None
    fix = "write the box itself: <box>x1 y1 x2 y2</box> on a grid of 0 to 1000"
    if field == "rejected":  # names and boxes have one order, that of one text
        return repr(mark[0]), "no such mark: 'objects' fills the conversation alone", fix
    return (
        repr(mark[0]),
        "'objects' of the record, from which it is filled",
        f"add 'objects' with 'ref' and 'bbox', or {fix}",
    )


def _find_picture_mark(text: str, *, is_asked: bool) -> tuple[str, str, str] | None:
    named = _NAMES_A_FILE.search(text)
    if named:
        path = named["img"] or named["vision"]
        return (
            f"a picture in the text: {quote(named[0])}",
            _IN_THE_TEXT,
            f'write <image> here, and "image": {quote(path)} in the record',
        )
    if not is_asked:
        return None
    other = _SHOWS_A_PICTURE.search(text)
    if other:
        return (
            f"the mark {other[0]!r}, with which another model shows a picture",
            _IN_THE_TEXT,
            "write <image> in place of it",
        )
    film = _FILM_OR_SOUND.search(text)
    if film is None:
        return None
    if (film["kind"] or film["padded"]) == "video":
        fix = "write <video> in place of it"
        return repr(film[0]), "the film under 'video' of the record, and <video> in its place", fix
    expected = "images and films only: this version trains pictures, films and text"
    return repr(film[0]), expected, "leave the record out"


def _find_path(text: str, shown: set[str], root: str | None) -> tuple[str, str, str] | None:
    """Find a Markdown picture, or the path of an existing image file that is not one of the record's own."""
    if "](" in text and (markdown := _MARKDOWN.search(text)):
        path = markdown["path"].split()[0]
        if _ENDING.search(path) or (root is not None and _is_file(root, path)):
            fix = f'write <image> here, and "image": {quote(path)} in the record'
            return f"a picture of Markdown: {quote(markdown[0])}", _IN_THE_TEXT, fix
    if root is None or "." not in text:
        return None
    for match in _ENDING.finditer(text):
        line = text[max(text.rfind("\n", 0, match.start()) + 1, match.start() - _MOST_CHARACTERS) : match.start()]
        word = _WORD.search(line)
        whole = word[0] if word else line
        for stem in dict.fromkeys((whole, _AFTER_A_SIGN.sub("", whole), line.strip())):  # the last may contain spaces
            path = stem + match[0]
            if os.path.basename(path) not in shown and _is_file(root, path):
                fix = f'write <image> here, and "image": {quote(path)} in the record'
                found = f"the path of an image file that is there: {quote(path)}"
                return found, _IN_THE_TEXT, f"{fix}; or move the file, if only its name is meant"
    return None


def _is_file(root: str, path: str) -> bool:
    try:
        return os.path.isfile(os.path.join(root, path.removeprefix("file://")))
    except ValueError:  # a character that is invalid in paths
        return False
