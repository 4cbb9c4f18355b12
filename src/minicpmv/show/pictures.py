"""Makes a picture small enough to embed in a page, with the lines along which its tiles are cut.

The lines are those of ``processing.pictures.slicing``; nothing is planned here.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from minicpmv.pages.images import data_url, shrink
from minicpmv.processing.pictures.patches import ImageSource, load_image, resize
from minicpmv.processing.pictures.slicing import SlicePlan

__all__ = ["Picture", "Tile", "show_picture", "tiles_of"]

MAX_SHOWN_PIXELS = 960
"""Longest side of an embedded picture: sharp at the width of a page, and seldom above 150 kB."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tile:
    """Places one tile in the picture, in pixels of the picture, which may be fractions."""

    number: int
    """Number from 1, row by row, as in the text."""
    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """Holds one image of a record."""

    number: int
    """Number from 1, in the order of the text."""
    name: str
    url: str
    """``data:`` URL of the picture, shrunk to at most 960 pixels a side."""
    overview_url: str
    """``data:`` URL of the overview at the size at which the model sees it."""
    plan: SlicePlan
    tiles: tuple[Tile, ...]
    tokens_of_each: Sequence[int]
    """Tokens of each slice, the overview's first."""
    token_side: int | None = None
    """Patches along each side of the square that a token stands for; None where tokens have no place."""

    @property
    def num_tokens(self) -> int:
        """Return the tokens of all its slices, without tags."""
        return sum(self.tokens_of_each)

    def token_grid(self, position: int) -> str:
        """Return the columns and rows of a slice's tokens in words; nothing where tokens have no place."""
        rows, columns = self.plan.tgt_sizes[position]
        return f"{columns // self.token_side} × {rows // self.token_side}" if self.token_side else ""

    @property
    def vertical_cuts(self) -> list[float]:
        """Return the vertical cuts in pixels from the left, without the edges."""
        return sorted({tile.left for tile in self.tiles} - {0})

    @property
    def horizontal_cuts(self) -> list[float]:
        """Return the horizontal cuts in pixels from the top, without the edges."""
        return sorted({tile.top for tile in self.tiles} - {0})

    def slice_names(self, *, is_only: bool) -> list[str]:
        """Name the slices in the order of the text, with the image's number unless it is the only one."""
        names = ["overview", *(f"tile {tile.number}" for tile in self.tiles)]
        return names if is_only else [f"image {self.number} {name}" for name in names]


def show_picture(
    source: ImageSource,
    plan: SlicePlan,
    *,
    number: int,
    tokens_of_each: Sequence[int],
    token_side: int | None = None,
) -> Picture:
    """Embed a picture.

    Args:
        source: The picture.
        plan: How it is cut.
        number: From 1, in the order of the text.
        tokens_of_each: Tokens of each slice.
        token_side: As ``Picture`` has it.

    Raises:
        ImageError: The picture cannot be read.
    """
    image = load_image(source)
    return Picture(
        number=number,
        name=os.path.basename(source) if isinstance(source, (str, os.PathLike)) else "embedded image",
        url=data_url(shrink(image, MAX_SHOWN_PIXELS)),
        overview_url=data_url(resize(image, plan.source_size)),
        plan=plan,
        tiles=tiles_of(plan),
        tokens_of_each=tokens_of_each,
        token_side=token_side,
    )


def tiles_of(plan: SlicePlan) -> tuple[Tile, ...]:
    """Return the tiles in the coordinates of the stored picture.

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
