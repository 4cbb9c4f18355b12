"""Finds oddities of readable images, where the model sees something else than expected. They stop no run.

They are judged from the header alone; statements about pixels describe what ``processing.pictures`` makes of such a
file. Only a picture of which nothing would be left is a fault, which is judged from its pixels.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from PIL import Image

from minicpmv.errors import ImageError

__all__ = ["DepthError", "Trait", "check_depth", "is_deep", "traits_of"]

_ORIENTATION = 0x0112
"""EXIF tag 274; 1 is upright."""
_TURNS = {
    2: "mirrored",
    3: "turned by 180 degrees",
    4: "mirrored top to bottom",
    5: "mirrored and turned by 90 degrees",
    6: "turned clockwise by 90 degrees",
    7: "mirrored and turned by 90 degrees",
    8: "turned counter-clockwise by 90 degrees",
}
"""Display of each other orientation in viewers. Source: EXIF 2.32, table 4."""
_KIN = {"MPO": "JPEG", "DIB": "BMP", "CUR": "ICO"}
"""Formats that share an extension with another."""
_ONE_PICTURE = ("MPO", "PSD")
"""Formats whose further frames are not meant to be shown: a phone's photo with its preview, layers of one picture."""
_DEEP = ("I", "F")
_SCALE = (
    'python -c "import sys, numpy as np; from PIL import Image; a = np.asarray(Image.open(sys.argv[1]), float); '
    "Image.fromarray((255 * (a - a.min()) / (a.max() - a.min())).astype('uint8')).save(sys.argv[2])\" IMAGE scaled.png"
)
_DAMAGED_EXIF = (OSError, SyntaxError, ValueError, KeyError, TypeError, EOFError, struct.error, zlib.error)


@dataclass(frozen=True, slots=True)
class Trait:
    """Holds one oddity, worded like a ``Problem``."""

    code: str
    found: str
    expected: str
    fix: str


def traits_of(image: Image.Image, name: str) -> Iterator[Trait]:
    """Yield the oddities of an image that has just been opened.

    Args:
        image: The image, which is not loaded, neither before nor here.
        name: Its path; empty if it has none.
    """
    yield from _extension(image, name)
    yield from _orientation(image)
    yield from _colours(image)
    width, height = image.size
    limit = Image.MAX_IMAGE_PIXELS
    if limit and width * height > limit:
        found = f"{width} x {height} pixels"
        fix = "shrink the image: the model sees a few million pixels of it, and decoding it costs time and memory"
        yield Trait("D307", found, f"at most {limit} pixels", fix)
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format not in _ONE_PICTURE:
        fix = "save the frame that is meant as an image of its own, unless it is the first"
        yield Trait("D303", f"{frames} frames or pages", "one; the model sees the first", fix)


class DepthError(ImageError):
    """Says that nothing of a readable picture would be left in 8 bits per pixel."""


def is_deep(image: Image.Image) -> bool:
    """Return whether a grey image has more than 8 bits per pixel."""
    return image.mode.startswith(_DEEP)


def check_depth(image: Image.Image, where: str) -> None:
    """Make sure that something of a deep image is left when its values are clipped to 0..255, as they will be.

    Args:
        image: An image for which ``is_deep`` holds; it is loaded here.
        where: Its path or other name.

    Raises:
        DepthError: The image has several values and becomes entirely black or white.
    """
    low, high = (image if image.mode == "F" else image.convert("I")).getextrema()
    assert isinstance(low, (int, float)), "of one channel"
    assert isinstance(high, (int, float)), "of one channel"
    darkest, lightest = (int(min(255, max(0, value))) for value in (low, high))
    if low < high and lightest - darkest <= 1:
        shade = "black" if lightest <= 1 else "white"
        raise DepthError(
            where=where,
            found=f"values from {low:g} to {high:g} (mode {image.mode}), all of which become {shade},",
            expected="values that differ between 0 and 255: what lies outside, and every fraction, is cut",
            fix="scale the values and save the image with 8 bits: " + _SCALE,
        )


def _extension(image: Image.Image, name: str) -> Iterator[Trait]:
    extension = os.path.splitext(name)[1].lower()
    stated, found = _format_of(extension), image.format or ""
    if stated and found and _KIN.get(found, found) != stated:
        fix = "rename the file, here and in the data: other programs go by the name"
        yield Trait("D301", f"{found} data in a file named {extension}", f"{stated} data; read as {found}", fix)


@lru_cache
def _format_of(extension: str) -> str:
    Image.init()
    stated = Image.registered_extensions().get(extension, "")
    return _KIN.get(stated, stated)


def _orientation(image: Image.Image) -> Iterator[Trait]:
    if image.format == "PNG" and not {"exif", "Raw profile type exif"} & image.info.keys():
        return  # Pillow would decode the whole image to look for EXIF data after the pixels
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except _DAMAGED_EXIF:
        return  # the pixels do not depend on it
    if value in _TURNS:
        width, height = image.size
        expected = f"upright pixels; the model sees them as stored, {width} x {height}"
        fix = "where that matters, save the image turned (PIL.ImageOps.exif_transpose), for training and for use"
        yield Trait("D302", f"an image that viewers show {_TURNS[value]} (EXIF orientation {value})", expected, fix)


def _colours(image: Image.Image) -> Iterator[Trait]:
    mode = image.mode
    if is_deep(image):
        found = f"more than 8 bits for each pixel (mode {mode})"
        fix = "scale the values to 0..255 and save the image with 8 bits"
        cut = "every value above 255 becomes white" + (", every fraction is cut" if mode == "F" else "")
        yield Trait("D305", found, f"8 bits; {cut}", fix)
    elif mode in ("CMYK", "LAB", "HSV", "YCbCr"):
        fix = "save the image as RGB if its colours matter exactly: colour profiles are not applied"
        yield Trait("D304", f"{mode} colours", "RGB; they are converted", fix)
    elif mode in ("P", "PA") and image.format != "GIF":  # every GIF has one
        fix = "nothing, unless the palette is not meant as colours, as in a label map"
        yield Trait("D304", "a palette", "RGB; the palette's colours are used", fix)
    if mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        fix = "where parts are transparent, put the image on the background that is meant"
        yield Trait("D306", "transparency", "none; the model sees the colours stored under transparent pixels", fix)
