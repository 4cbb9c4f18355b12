"""Words the fault of an image that a record names: no such file, no permission, or a file of another kind.

``image_files`` finds that an image cannot be read; the reason and the fix are looked up here, for those few.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import shlex
import unicodedata
from dataclasses import dataclass
from typing import TypeGuard

from PIL import Image

from minicpmv.data.media.image_traits import DepthError
from minicpmv.data.records.file_kinds import HEAD_BYTES, FileKind, find_kind, read_kind
from minicpmv.data.records.path_faults import find_path_fault, suggest_name
from minicpmv.errors import ImageError, Problem
from minicpmv.processing.pictures.patches import read_data_url
from minicpmv.wording import counted

__all__ = ["ImageUse", "describe_fault", "is_file_path", "name_of", "others_of"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageUse:
    """Names one image in one record."""

    record: int
    """Position of the record in its file."""
    where: str
    """Place as in messages."""
    written: str
    """Path as written in the record."""
    path: str | bytes
    """Path to open; or, for an embedded image, the file's bytes or a ``data:`` URL."""
    root: str
    """Folder where relative paths start."""


_RENAME = (
    "import os, sys, unicodedata as u; os.chdir(sys.argv[1]); [os.rename(n, u.normalize(sys.argv[2], n)) "
    "for n in os.listdir() if not os.path.exists(u.normalize(sys.argv[2], n))]"
)
_MAX_PATH = 300
"""Most characters of a path that a message repeats; longer text is hardly a path."""
_BASE64 = re.compile(r"[A-Za-z0-9+/\s]{60,}={0,2}\s*")
_PICTURE_STARTS = (
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"\xff\xd8\xff", "jpeg"),
    (b"GIF8", "gif"),
    (b"BM", "bmp"),
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
)


def is_file_path(path: str | bytes) -> TypeGuard[str]:
    """Return whether an image is a file, rather than embedded."""
    return isinstance(path, str) and not path.startswith("data:")


def name_of(use: ImageUse) -> str:
    """Name an image in a message."""
    return repr(use.path) if is_file_path(use.path) else "the embedded image"


def others_of(num_others: int) -> str:
    """Word how many further uses an image has."""
    return f"; {counted(num_others, 'more use')} of this file" if num_others else ""


def describe_fault(use: ImageUse, error: ImageError, *, num_others: int, suggest: bool) -> Problem:
    """Word the fault of an image.

    Args:
        use: Its first use.
        error: Error from ``inspect_files``.
        num_others: Number of its further uses.
        suggest: Whether to look for a file that may be meant, if the file is missing; see ``MAX_SUGGESTIONS``.
    """
    others = others_of(num_others)
    if is_file_path(use.path):
        if kind := _bare_base64(use.written):
            found = f"base64 text of {len(use.written):,} characters that holds a picture ({kind}), and no path{others}"
            fix = f"put data:image/{kind};base64, in front of it"
            return Problem("D175", use.where, found, "a path, or a data: URL", fix)
        if fault := find_path_fault(use.path):
            code, expected = ("D176", "a file that may be read") if fault.is_forbidden else ("D141", "an image file")
            return Problem(code, use.where, fault.found + others, expected, fault.fix)
        if not os.path.isfile(use.path):
            fix = _suggest(use, use.path) if suggest else "correct the path or add the file"
            found = f"no file {_shown(use)}{others}"
            return Problem("D141", use.where, found, "an image file", fix)
    if kind := _kind_of(use.path):
        fix = kind.as_image(use.path if is_file_path(use.path) else "")
        return Problem("D142", use.where, f"{kind.name}, in {name_of(use)}{others}", "a picture that Pillow reads", fix)
    code = "D142"
    if isinstance(error.__cause__, Image.DecompressionBombError):
        code = "D143"
    elif isinstance(error, DepthError):
        code = "D177"
    return Problem(code, use.where, f"{error.found} in {name_of(use)}{others}", error.expected, error.fix)


def _shown(use: ImageUse) -> str:
    path = str(use.path)
    return repr(path) if len(path) <= _MAX_PATH else f"{path[:40]!r}... ({len(path):,} characters)"


def _bare_base64(text: str) -> str | None:
    """Return the format of a picture in base64 text, if it is one."""
    if not _BASE64.fullmatch(text):
        return None
    try:
        start = base64.b64decode("".join(text[:200].split())[:64])
    except binascii.Error:
        return None
    if start.startswith(b"RIFF") and start[8:12] == b"WEBP":
        return "webp"
    return next((kind for mark, kind in _PICTURE_STARTS if start.startswith(mark)), None)


def _kind_of(path: str | bytes) -> FileKind | None:
    """Return the kind of a file that is not an image, if known."""
    if is_file_path(path):
        kind = read_kind(path)
    else:
        try:
            kind = find_kind((path if isinstance(path, bytes) else read_data_url(path))[:HEAD_BYTES])
        except ImageError:
            return None
    return None if kind is None or kind.is_picture else kind


def _suggest(use: ImageUse, path: str) -> str:
    """Suggest a fix for a path without a file."""
    if "\\" in use.written:
        return "write / instead of \\ in paths"
    if near := suggest_name(path):
        return _word_near(path, near)
    if not os.path.isabs(use.written) and os.path.isfile(use.written):
        return (
            f"relative paths start at {use.root}; the file exists from the current folder, so set the image root to it"
        )
    if shorter := _without_folders(use):
        return f"did you mean {shorter!r}? Relative paths start at {use.root}"
    if len(path) <= _MAX_PATH and not os.path.isdir(os.path.dirname(path) or "."):
        folder = os.path.dirname(path)
        return f"correct the path: there is no folder {folder!r} (relative paths start at {use.root})"
    return "correct the path or add the file"


def _word_near(path: str, near: str) -> str:
    """Word a suggestion; for names that look the same, word the difference."""
    if path != near and unicodedata.normalize("NFC", path) == unicodedata.normalize("NFC", near):
        form = "NFC" if unicodedata.is_normalized("NFC", path) else "NFD"
        folder = shlex.quote(os.path.dirname(near) or ".")
        return (
            f"the same name exists in another Unicode form, {os.path.basename(near)!a}; rename the files of "
            f'that folder: python -c "{_RENAME}" {folder} {form}'
        )
    if os.path.dirname(path) == os.path.dirname(near):
        return f"did you mean {os.path.basename(near)!r}, which is in that folder?"
    return f"did you mean {near!r}?"


def _without_folders(use: ImageUse) -> str | None:
    """Return the end of a path that exists below the image root, if its leading folders do not."""
    parts = [part for part in use.written.split("/") if part]
    ends = ("/".join(parts[number:]) for number in range(1, len(parts)))
    return next((end for end in ends if len(end) <= _MAX_PATH and os.path.isfile(os.path.join(use.root, end))), None)
