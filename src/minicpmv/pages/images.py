"""Makes images small enough to embed in a page."""

from __future__ import annotations

import base64
import io

from PIL import Image

from minicpmv.processing.pictures.patches import resize

__all__ = ["data_url", "shrink"]

MAX_EXACT_PIXELS = 128
"""Largest image that is embedded without loss."""
_JPEG_QUALITY = 80


def data_url(image: Image.Image) -> str:
    """Return an RGB image as a ``data:`` URL: PNG if it is tiny, else JPEG."""
    file = io.BytesIO()
    if max(image.size) <= MAX_EXACT_PIXELS:
        kind = "png"
        image.save(file, "PNG", optimize=True)
    else:
        kind = "jpeg"
        image.save(file, "JPEG", quality=_JPEG_QUALITY, optimize=True, progressive=True)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


def shrink(image: Image.Image, longest: int) -> Image.Image:
    """Return an image whose longer side has at most this many pixels."""
    scale = longest / max(image.size)
    if scale >= 1:
        return image
    width, height = (max(1, round(side * scale)) for side in image.size)
    return resize(image, (width, height), Image.Resampling.LANCZOS)
