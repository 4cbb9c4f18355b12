"""Reads images embedded in the data: ``data:`` URLs, and the bytes of image files in tables."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable

from PIL import Image

from minicpmv.processing.pictures.patches import read_data_url

__all__ = ["data_url", "describe_image", "image_kind", "image_names", "is_embedded", "read_embedded"]


def is_embedded(source: str | bytes) -> bool:
    """Return whether an image value holds the image, rather than the path of its file."""
    return isinstance(source, bytes) or source.startswith("data:")


def read_embedded(source: str | bytes) -> bytes:
    """Return the bytes of the image file.

    Raises:
        ImageError: A ``data:`` URL cannot be decoded.
    """
    return source if isinstance(source, bytes) else read_data_url(source)


def image_kind(data: bytes) -> str:
    """Return Pillow's name of an image file's format, in lower case."""
    with Image.open(io.BytesIO(data)) as image:
        return (image.format or "png").lower()


def data_url(data: bytes) -> str:
    """Return the bytes of a valid image file as a ``data:`` URL."""
    kind = image_kind(data)
    mime = Image.MIME.get(kind.upper(), f"image/{kind}")
    return f"data:{mime};base64,{base64.b64encode(data).decode('ascii')}"


def describe_image(source: str | bytes) -> str:
    """Name an image in a message: its path in quotes, or its size if it has none."""
    return f"an embedded image of {len(source):,} bytes" if isinstance(source, bytes) else repr(source)


def image_names(sources: Iterable[str | bytes]) -> list[str]:
    """Name images in a file of answers: by their paths, which can be opened, or by a description if they have none."""
    return [source if isinstance(source, str) else describe_image(source) for source in sources]
