"""Reads the images of shown answers from the disk and shrinks them, to embed each once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from minicpmv.errors import ImageError
from minicpmv.pages.images import data_url, shrink
from minicpmv.processing.pictures.patches import load_image

__all__ = ["Picture", "Pictures"]

_SIZES = ((1_500_000, 960), (3_000_000, 320))
"""Longest side in pixels of pictures as long as those before them have fewer bytes than stated. The larger ones can be
read when they are enlarged, the smaller ones are sharp next to an answer."""
_SMALLEST = 160
"""Longest side of the others: a page that is mailed stays below what mail servers take."""
_MAX_SHOWN = 4
"""Most images shown of one record."""
_TINY_PIXELS = 96
"""Longest side up to which a picture is shown enlarged, pixel by pixel."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """Holds one image of a record."""

    name: str
    number: int = 0
    """Number among the pictures of the page."""
    url: str = ""
    """``data:`` URL; empty if it cannot be shown, or stands in the page already."""
    is_repeated: bool = False
    """Whether an earlier record of the page has it."""
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
        self._embedded: dict[str, Picture] = {}
        self._num_bytes = 0

    def of(self, names: Sequence[str]) -> list[Picture]:
        """Return the first images of a record."""
        return [self._first_or_again(name) for name in names[:_MAX_SHOWN]]

    def _first_or_again(self, name: str) -> Picture:
        picture = self._embedded.get(name)
        if picture is None:
            picture = self._embedded[name] = self._read(name)
        elif not picture.fault:
            return replace(picture, url="", is_repeated=True)
        return picture

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
        longest = next((pixels for most, pixels in _SIZES if self._num_bytes < most), _SMALLEST)
        url = data_url(shrink(image, longest))
        self._num_bytes += len(url)
        return Picture(
            name=Path(name).name, number=len(self._embedded), url=url, is_tiny=max(image.size) <= _TINY_PIXELS
        )
