"""Turns a picture into the patch rows that the vision tower reads: bytes first, then their values.

NumPy and Pillow only. EXIF orientation is not applied, as the released code does not: a picture that a viewer shows
rotated is seen here as it is stored. Sizes come from ``slicing``; this module does not decide any.
"""

from __future__ import annotations

import base64
import binascii
import io
import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from minicpmv.errors import ImageError
from minicpmv.processing.pictures.slicing import SlicePlan
from minicpmv.wording import name_type

__all__ = [
    "DAMAGE",
    "ImageSource",
    "cut_patches",
    "load_image",
    "normalise",
    "read_data_url",
    "resize",
    "values_of_bytes",
]

ImageSource = str | os.PathLike[str] | bytes | Image.Image
"""A path, the bytes of an image file, a ``data:`` URL, or an open image."""

DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
    EOFError,
    LookupError,
    ArithmeticError,
    RuntimeError,  # NotImplementedError, for a field that no file should have
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
"""What Pillow's format plugins raise on damaged files; OSError includes its UnidentifiedImageError."""


def load_image(source: ImageSource) -> Image.Image:
    """Return the picture as RGB, fully decoded, so that nothing can fail later.

    Other modes (grey, palette, transparency, CMYK, 16 bit) go through Pillow's ``convert("RGB")`` like in the released
    code; transparent pixels keep the colour stored under them.

    Raises:
        ImageError: The file is missing, unreadable or cut off, or ``source`` is nothing that holds a picture.
    """
    if isinstance(source, Image.Image):
        return _decode(source, getattr(source, "filename", "") or "image")
    if isinstance(source, bytes):
        return _open(io.BytesIO(source), f"image of {len(source)} bytes")
    if isinstance(source, str) and source.startswith("data:"):
        return _open(io.BytesIO(read_data_url(source)), f"image {source[:40]}...")
    if isinstance(source, str) and source.startswith(("http://", "https://")):
        raise ImageError(
            where=source,
            found="a web address",
            expected="a file path, bytes, a data: URL or a PIL image",
            fix="download the image and give its path; nothing is fetched while training or chatting",
        )
    if not isinstance(source, (str, os.PathLike)):
        raise ImageError(
            where="image",
            found=name_type(source),
            expected="a file path, bytes, a data: URL or a PIL image",
            fix="for an array, use PIL.Image.fromarray first",
        )
    path = Path(source)
    if not path.is_file():
        raise ImageError(
            where=str(path),
            found="a folder" if path.is_dir() else "no such file",
            expected="an image file",
            fix="correct the path; a relative one starts at the current folder",
        )
    return _open(path, str(path))


def cut_patches(image: Image.Image, plan: SlicePlan) -> NDArray[np.uint8]:
    """Resize and cut one picture.

    Args:
        image: RGB, of the size that the plan was made for.
        plan: Where the slices lie.

    Returns:
        (patches, 3 * patch_size ** 2), uint8. Rows follow the slices of the plan, each slice row by row; in a row the
        bytes lie as (channel, row, column).
    """
    assert image.size == plan.image_size, f"plan for {plan.image_size}, image of {image.size}"
    assert image.mode == "RGB", image.mode
    parts = [_to_patches(np.asarray(resize(image, plan.source_size)), (1, 1), plan.patch_size)]
    if plan.grid is not None and plan.refine_size is not None:
        parts.append(_to_patches(np.asarray(resize(image, plan.refine_size)), plan.grid, plan.patch_size))
    return np.concatenate(parts) if len(parts) > 1 else parts[0]


def normalise(patches: NDArray[np.uint8], *, mean: Sequence[float], std: Sequence[float]) -> NDArray[np.float32]:
    """Turn bytes into the values that the vision tower reads.

    Args:
        patches: (patches, 3 * any number of pixels), channel by channel.
        mean: Subtracted per channel, from pixels scaled to 0..1.
        std: Divided by per channel, after that.

    Returns:
        The same shape, bit-equal to the released processor's values.
    """
    # Rounded exactly like the released code: float32 throughout, one division, one subtraction, one division. In place,
    # and with a mean for each value of a patch: numpy is slower at many short rows.
    num_pixels = patches.shape[1] // 3
    values = np.divide(patches, np.float32(255), dtype=np.float32)
    values -= np.repeat(np.asarray(mean, np.float32), num_pixels)
    values /= np.repeat(np.asarray(std, np.float32), num_pixels)
    return values


def values_of_bytes(*, mean: Sequence[float], std: Sequence[float]) -> NDArray[np.float32]:
    """Return what ``normalise`` makes of each byte in each channel, (3, 256): enough to normalise on any device."""
    every_byte = np.arange(256, dtype=np.uint8)[:, None].repeat(3, axis=1)
    return np.ascontiguousarray(normalise(every_byte, mean=mean, std=std).T)


def resize(
    image: Image.Image, size: tuple[int, int], resample: Image.Resampling = Image.Resampling.BICUBIC
) -> Image.Image:
    """Resize a picture across, then down, whatever the release of Pillow.

    Pillow's own ``resize`` makes the same two passes and rounds to bytes in between, so their order shows. Up to 12.1
    it goes across first, as for the pictures that the released models were trained on; 12.2 and 12.3 go down first
    where a picture is over 100 times as tall as wide, 13 wherever that is less work. One pass a call leaves no choice.

    Args:
        image: Without transparency, whose colours Pillow would weigh, and so round, once in each pass.
        size: (width, height) in pixels.
        resample: The filter.

    Returns:
        The resized picture; ``image`` itself if it has that size.
    """
    assert image.mode in ("RGB", "L"), image.mode
    for step in ((size[0], image.height), size):
        if image.size != step:
            image = image.resize(step, resample)
    return image


def _to_patches(pixels: NDArray[np.uint8], grid: tuple[int, int], patch: int) -> NDArray[np.uint8]:
    """Cut (height, width, 3) into tiles and those into patches: (patches, 3 * patch ** 2), tile by tile, row by row."""
    height, width, _ = pixels.shape
    columns, rows = grid
    cut = pixels.reshape(rows, height // rows // patch, patch, columns, width // columns // patch, patch, 3)
    return cut.transpose(0, 3, 1, 4, 6, 2, 5).reshape(-1, 3 * patch * patch)


def _open(file: Path | io.BytesIO, where: str) -> Image.Image:
    try:
        with Image.open(file) as image:
            return _decode(image, where)
    except DAMAGE as error:
        raise _damaged(where, error) from error


def _decode(image: Image.Image, where: str) -> Image.Image:
    try:
        image.load()
        return image if image.mode == "RGB" else image.convert("RGB")
    except DAMAGE as error:
        raise _damaged(where, error) from error


def _damaged(where: str, error: BaseException) -> ImageError:
    if isinstance(error, Image.DecompressionBombError):
        return ImageError(
            where=where,
            found=f"an image too large to open safely ({error})",
            expected=f"at most {2 * (Image.MAX_IMAGE_PIXELS or 0)} pixels",
            fix="shrink the image; the model sees at most a few million pixels of it anyway",
        )
    return ImageError(
        where=where,
        found=f"data that cannot be decoded ({type(error).__name__}: {error})",
        expected="a complete image file that Pillow can read",
        fix="save or download the image again",
    )


def read_data_url(url: str) -> bytes:
    """Return the bytes of the file that a ``data:...;base64,...`` URL holds.

    Raises:
        ImageError: It holds none.
    """
    header, comma, payload = url.partition(",")
    try:
        if not comma or not header.endswith(";base64"):
            raise ValueError("no ';base64,' in it")
        return base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageError(
            where=f"image {url[:40]}...",
            found=f"a data: URL that cannot be decoded ({error})",
            expected="data:image/png;base64,... with base64 text after the comma",
            fix="encode the image file's bytes with base64",
        ) from error
