"""Images that somebody sends: of few formats, and measured before anything of them is decoded."""

from __future__ import annotations

import io

from PIL import Image

from minicpmv.errors import ImageError
from minicpmv.processing.pictures.patches import DAMAGE

__all__ = ["measure_sent_image"]

_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
"""Pillow reads many more, some by starting other programs."""


def measure_sent_image(content: bytes, *, where: str) -> tuple[int, int]:
    """Return (width, height) in pixels of an image file, from its header.

    Raises:
        ImageError: It is none, or of another format.
    """
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            return image.size
    except Image.DecompressionBombError as error:
        raise ImageError(
            where=where,
            found=f"an image too large to open ({error})",
            expected="a smaller one",
            fix="shrink the image",
        ) from error
    except DAMAGE as error:
        raise ImageError(
            where=where,
            found=f"{len(content)} bytes that are no image ({type(error).__name__})",
            expected=f"a file of one of the formats {', '.join(_FORMATS)}",
            fix="save or download the image again",
        ) from error
