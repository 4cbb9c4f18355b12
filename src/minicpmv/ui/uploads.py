"""Checks pictures that a visitor has sent before the model gets them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from minicpmv.processing.pictures.patches import ImageError
from minicpmv.processing.pictures.sent_images import measure_sent_image

__all__ = ["check_uploads"]


def check_uploads(files: Sequence[str], *, max_pixels: int) -> None:
    """Refuse a question's files that are not pictures, or too large together.

    Raises:
        ImageError: A file is not a picture, or they are too large.
    """
    left = max_pixels
    for file in map(Path, files):
        width, height = measure_sent_image(file.read_bytes(), where=f"image {file.name}")
        left -= width * height
        if left < 0:
            raise ImageError(
                where=f"image {file.name}",
                found=f"{width} x {height} pixels",
                expected=f"at most {max_pixels} pixels in all images of a question",
                fix="shrink the images; the model sees at most a few million pixels of each anyway",
            )
