"""One picture for a page: small enough to embed, with the lines along which its tiles are cut.

The lines are those of ``processing.slicing``; nothing is planned here.
"""

from __future__ import annotations

import base64
import io
import os
from dataclasses import dataclass

from PIL import Image

from minicpmv.processing.images import ImageSource, load_image
from minicpmv.processing.slicing import SlicePlan

__all__ = ["Picture", "Tile", "data_url", "show_picture", "tiles_of"]

MAX_SHOWN_PIXELS = 960
"""Longest side of an embedded picture: sharp at the width of a page, and seldom above 150 kB."""
MAX_EXACT_PIXELS = 128
"""Pictures up to this size are embedded as they are, without loss."""
_JPEG_QUALITY = 80


@dataclass(frozen=True, kw_only=True, slots=True)
class Tile:
    """Where one tile lies in the picture itself, in pixels of the picture; not always whole ones."""

    number: int
    """From 1, row by row: the order of the text."""
    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """One image of a record."""

    number: int
    """From 1, in the order of the text."""
    name: str
    url: str
    """``data:`` URL of the picture, shrunk to at most 960 pixels a side."""
    overview_url: str
    """``data:`` URL of the overview at the size at which the model sees it."""
    plan: SlicePlan
    tiles: tuple[Tile, ...]
    query_num: int
    """Tokens per slice."""

    @property
    def num_tokens(self) -> int:
        """Tokens of all its slices, tags not counted."""
        return self.query_num * self.plan.num_slices

    @property
    def vertical_cuts(self) -> list[float]:
        """Pixels from the left, without the edges."""
        return sorted({tile.left for tile in self.tiles} - {0})

    @property
    def horizontal_cuts(self) -> list[float]:
        """Pixels from the top, without the edges."""
        return sorted({tile.top for tile in self.tiles} - {0})

    def slice_names(self, *, is_only: bool) -> list[str]:
        """What each slice is called, in the order of the text; with the image's number unless it is the only one."""
        names = ["overview", *(f"tile {tile.number}" for tile in self.tiles)]
        return names if is_only else [f"image {self.number} {name}" for name in names]


def show_picture(source: ImageSource, plan: SlicePlan, *, number: int, query_num: int) -> Picture:
    """Embed a picture.

    Raises:
        ImageError: It cannot be read.
    """
    image = load_image(source)
    return Picture(
        number=number,
        name=os.path.basename(source) if isinstance(source, (str, os.PathLike)) else "embedded image",
        url=data_url(_shrink(image)),
        overview_url=data_url(image.resize(plan.source_size, Image.Resampling.BICUBIC)),
        plan=plan,
        tiles=tiles_of(plan),
        query_num=query_num,
    )


def tiles_of(plan: SlicePlan) -> tuple[Tile, ...]:
    """Return the tiles in the coordinates of the picture as it is stored.

    A tile is cut from the picture resized to ``plan.refine_size``; this undoes that resize.
    """
    if plan.refine_size is None:
        return ()
    (width, height), (refined_width, refined_height) = plan.image_size, plan.refine_size
    return tuple(
        Tile(
            number=number,
            left=left * width / refined_width,
            top=top * height / refined_height,
            right=right * width / refined_width,
            bottom=bottom * height / refined_height,
        )
        for number, (left, top, right, bottom) in enumerate(plan.tile_boxes, start=1)
    )


def data_url(image: Image.Image) -> str:
    """Return an RGB picture as a ``data:`` URL: PNG if it is tiny, else JPEG."""
    file = io.BytesIO()
    if max(image.size) <= MAX_EXACT_PIXELS:
        kind = "png"
        image.save(file, "PNG", optimize=True)
    else:
        kind = "jpeg"
        image.save(file, "JPEG", quality=_JPEG_QUALITY, optimize=True, progressive=True)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


def _shrink(image: Image.Image) -> Image.Image:
    scale = MAX_SHOWN_PIXELS / max(image.size)
    if scale >= 1:
        return image
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)
