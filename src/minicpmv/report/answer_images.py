"""Reads the images of shown answers from the disk and shrinks them, to embed each once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from minicpmv.pages.images import data_url, shrink
from minicpmv.processing.pictures.patches import ImageError, load_image

__all__ = ["Picture", "Pictures"]

_MAX_PIXELS = 320
"""Longest side in pixels: sharp next to an answer, and seldom above 30 kB."""
_MAX_SHOWN = 4
"""Most images shown of one record."""
_TINY_PIXELS = 96
"""Longest side up to which a picture is shown enlarged, pixel by pixel."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """Holds one image of a record."""

    name: str
    url: str = ""
    """``data:`` URL; empty if it cannot be shown."""
    is_tiny: bool = False
    fault: str = ""
    """Reason why it cannot be shown."""


class Pictures:
    """Embeds images in a page.

    Args:
        folder: Start of relative paths: the folder in which the run was started.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._embed = cache(self._read)

    def of(self, names: Sequence[str]) -> list[Picture]:
        """Return the first images of a record."""
        return [self._embed(name) for name in names[:_MAX_SHOWN]]

    def num_hidden(self, names: Sequence[str]) -> int:
        """Count the images that are not shown."""
        return max(0, len(names) - _MAX_SHOWN)

    def _read(self, name: str) -> Picture:
        if name.startswith("an embedded image"):
            return Picture(name=name, fault="it is embedded in the data")
        try:
            image = load_image(self._folder / name)
        except (ImageError, OSError, ValueError) as error:  # the last two for an invalid file name
            return Picture(name=Path(name).name, fault=error.found if isinstance(error, ImageError) else str(error))
        is_tiny = max(image.size) <= _TINY_PIXELS
        return Picture(name=Path(name).name, url=data_url(shrink(image, _MAX_PIXELS)), is_tiny=is_tiny)
