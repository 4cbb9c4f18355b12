"""Reads the images of a request, and checks their sizes before anything is decoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from minicpmv.errors import ImageError
from minicpmv.processing.pictures.patches import read_data_url
from minicpmv.processing.pictures.sent_images import measure_sent_image
from minicpmv.serving.errors import refused
from minicpmv.serving.requests.remote_images import fetch
from minicpmv.serving.settings import ServerSettings

__all__ = ["Picture", "read_content", "read_pictures"]


_WORDS = {"image": "an image file", "film": "a film file"}


@dataclass(frozen=True, slots=True)
class Picture:
    """Holds an image file as received."""

    content: bytes
    size: tuple[int, int]
    """(width, height) in pixels."""


def read_pictures(addresses: Sequence[str], settings: ServerSettings) -> list[Picture]:
    """Read all images of one request.

    Raises:
        RequestError: One is not allowed, missing or not an image, or they are too large.
    """
    pictures: list[Picture] = []
    bytes_left, pixels_left = settings.max_body_bytes, settings.max_image_pixels
    for number, address in enumerate(addresses):
        where = f"messages image {number}"
        content = read_content(address, where, settings, bytes_left)
        size = _size(content, where)
        bytes_left -= len(content)
        pixels_left -= size[0] * size[1]
        if pixels_left < 0:
            raise refused(
                where,
                f"{size[0]} x {size[1]} pixels",
                f"at most {settings.max_image_pixels} pixels in all images of a request",
                "shrink the images; the model sees at most a few million pixels of each anyway",
            )
        pictures.append(Picture(content, size))
    return pictures


def read_content(
    address: str, where: str, settings: ServerSettings, most_bytes: int, *, kind: Literal["image", "film"] = "image"
) -> bytes:
    """Return the bytes at an address, from where the server may read.

    Raises:
        RequestError: It may not, or there is nothing, or too much.
    """
    if address.startswith("data:"):
        try:
            return read_data_url(address)
        except ImageError as error:
            raise refused(where, error.found, error.expected, error.fix) from error
    if address.startswith(("http://", "https://")):
        if not settings.allow_remote_images:
            raise refused(
                where,
                "a web address",
                "a data: URL: this server fetches nothing",
                f"send the {kind}'s bytes, or start the server with --allow-remote-images",
            )
        return fetch(address, where, max_bytes=most_bytes, kind=kind)
    return _read_file(address, where, settings.allowed_image_root, most_bytes, kind)


def _read_file(address: str, where: str, root: Path | None, most_bytes: int, kind: str) -> bytes:
    """Read a file in the allowed folder. Errors do not reveal whether files exist elsewhere."""
    if root is None:
        raise refused(
            where,
            "a file's path",
            "a data: URL: this server opens no files",
            f"send the {kind}'s bytes, or start the server with --allowed-image-root",
        )
    parts = urlsplit(address) if address.startswith("file:") else None
    name = address if parts is None else unquote(parts.path)
    allowed = root.resolve()
    try:
        file = (allowed / name).resolve()
        inside = file.is_relative_to(allowed) and (parts is None or parts.netloc in ("", "localhost"))
        if not inside or not file.is_file():
            expected = f"{_WORDS[kind]} in the server's --allowed-image-root"
            raise refused(where, f"{name!r:.200}", expected, "correct the path")
        size = file.stat().st_size
        if size > most_bytes:
            raise refused(where, f"a file of {size} bytes", f"at most {most_bytes} bytes", f"shrink the {kind}")
        return file.read_bytes()
    except (OSError, ValueError, RuntimeError) as error:  # no permission, a NUL in the name, a cycle of links
        raise refused(where, f"{name!r:.200}", f"{_WORDS[kind]} that can be read", "correct the path") from error


def _size(content: bytes, where: str) -> tuple[int, int]:
    try:
        return measure_sent_image(content, where=where)
    except ImageError as error:
        raise refused(where, error.found, error.expected, error.fix) from error
