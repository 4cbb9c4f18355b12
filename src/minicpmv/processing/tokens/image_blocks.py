"""Writes the block of each image: its number, tags around slices, and how many tokens each slice takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from minicpmv.processing.pictures.slicing import SlicePlan
from minicpmv.processing.text.turns import ImageSegment
from minicpmv.releases.row import TokenRule
from minicpmv.releases.table import Version

__all__ = ["ImageNumbers", "image_block", "spell_out_image"]


def spell_out_image(
    plan: SlicePlan, version: Version, *, token_rule: TokenRule, number: int | None, slot: str | None = None
) -> str:
    """Return the text of one image's block, with the image's number before it unless that is None.

    Args:
        plan: How the image is sliced.
        version: The checkpoint's.
        token_rule: How many tokens each slice has.
        number: The image's.
        slot: The token that holds the place of an image token, if it is not the one for pictures.
    """
    slot = slot or version.reading.markup.slot
    pieces = image_block(plan, version, token_rule=token_rule, number=number)
    return "".join(slot * piece if isinstance(piece, int) else piece for piece in pieces)


def image_block(plan: SlicePlan, version: Version, *, token_rule: TokenRule, number: int | None) -> Iterator[str | int]:
    """Yield template text, and how many image tokens come next: the overview's, then those of each tile, row by row."""
    markup = version.reading.markup
    if number is not None:
        assert markup.number is not None, f"{version.model} has no tokens for it"
        opening, closing = markup.number
        yield f"{opening}{number}{closing}"
    overview, *tiles = (token_rule.count(size) for size in plan.tgt_sizes)
    yield from (markup.image[0], overview, markup.image[1])
    if plan.grid is None:
        return
    if markup.grid is not None:
        yield markup.grid[0]
    columns, _ = plan.grid
    for place, tile in enumerate(tiles):
        if place and place % columns == 0:
            yield markup.between_rows
        yield from (markup.tile[0], tile, markup.tile[1])
    if markup.grid is not None:
        yield markup.grid[1]


class ImageNumbers:
    """Counts pictures and films in order of appearance, each kind by itself."""

    def __init__(self, version: Version, *, use_image_id: bool, images_per_block: Sequence[int] | None) -> None:
        self._numbers_images = use_image_id
        self._numbers_films = use_image_id and version.reading.markup.numbers_films
        self._images_per_block = images_per_block
        self._num_images = 0
        self._films: dict[int, int] = {}

    def of(self, segment: ImageSegment) -> int | None:
        """Return the number to write before an image's block; None for no number."""
        if segment.film is None:
            number = self._num_images
            self._num_images += 1 if self._images_per_block is None else self._images_per_block[segment.index]
            return number if self._numbers_images else None
        if segment.film in self._films:
            return None  # before the film's first frame is its only number
        self._films[segment.film] = number = len(self._films)
        return number if self._numbers_films else None
