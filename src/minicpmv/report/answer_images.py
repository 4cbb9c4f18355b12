"""The images of shown answers, as they lie on the disk now: shrunk, embedded, each once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from minicpmv.pages.images import data_url, shrink
from minicpmv.processing.pictures.patches import ImageError, load_image

__all__ = ["Picture", "Pictures"]

_MAX_PIXELS = 320
"""Longest side: sharp beside an answer, and seldom above 30 kB."""
_MAX_SHOWN = 4
"""Of one record."""
_TINY_PIXELS = 96
"""Up to which the longer side is so short that a picture is shown enlarged, pixel by pixel."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """One image of a record."""

    name: str
    url: str = ""
    """``data:`` URL; empty if it cannot be shown."""
    is_tiny: bool = False
    fault: str = ""
    """Why it cannot be shown."""


class Pictures:
    """Embeds images for a page.

    Args:
        folder: Where relative paths start: the folder that the run was started in.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._embed = cache(self._read)

    def of(self, names: Sequence[str]) -> list[Picture]:
        """Return the first images of a record."""
        return [self._embed(name) for name in names[:_MAX_SHOWN]]

    def num_hidden(self, names: Sequence[str]) -> int:
        """Count those beyond."""
        return max(0, len(names) - _MAX_SHOWN)

    def _read(self, name: str) -> Picture:
        if name.startswith("an embedded image"):
            return Picture(name=name, fault="it lies inside the data")
        try:
            image = load_image(self._folder / name)
        except (ImageError, OSError, ValueError) as error:  # of a name that no file can have, the last two
            return Picture(name=Path(name).name, fault=error.found if isinstance(error, ImageError) else str(error))
        is_tiny = max(image.size) <= _TINY_PIXELS
        return Picture(name=Path(name).name, url=data_url(shrink(image, _MAX_PIXELS)), is_tiny=is_tiny)
