"""Gives each token three positions, of time, row and column, by the canvas that a picture is drawn on (4.7).

Text counts on in all three. A picture is drawn at one moment, on a canvas of as many rows and columns as its tiles have
tokens together, or its overview where there are none; what follows begins behind the canvas's longer side. Where blocks
are is known from writing them; no id is searched for, but for line breaks right behind a picture, which belong to it.
Source: ``get_rope_index`` of transformers' MiniCPMV4_7, whose numbers ``tests/parity`` holds these against.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["WrittenBlock", "place_on_canvas"]

_Size = tuple[int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class WrittenBlock:
    """One picture or frame as it was written."""

    slots: Sequence[int]
    """Where the image tokens of each slice begin, the overview's first; one token stands before and one behind them."""
    sizes: Sequence[_Size]
    """(rows, columns) of each slice in image tokens. All tiles have one size."""
    columns: int
    """Tiles side by side; 0 without tiles."""

    @property
    def canvas(self) -> _Size:
        """Rows and columns of image tokens that the picture is drawn on."""
        if not self.columns:
            return self.sizes[0]
        (rows, columns), num_tiles = self.sizes[1], len(self.sizes) - 1
        return num_tiles // self.columns * rows, self.columns * columns


def place_on_canvas(input_ids: Sequence[int], blocks: Sequence[WrittenBlock], *, newline: int) -> NDArray[np.int64]:
    """Return the positions of a conversation's tokens.

    Args:
        input_ids: The tokens.
        blocks: The pictures among them, in order.
        newline: Id of the token that is one line break and nothing else.

    Returns:
        (3, tokens): time, row and column.
    """
    positions_3T = np.empty((3, len(input_ids)), dtype=np.int64)
    place, following = 0, 0
    for block in blocks:
        start = block.slots[0] - 1
        positions_3T[:, place:start] = np.arange(following, following + start - place)
        origin = following + start - place
        last = len(block.slots) - 1
        end = block.slots[last] + _area(block.sizes[last]) + 1
        while end < len(input_ids) and input_ids[end] == newline:
            end += 1
        positions_3T[:, start:end] = _draw(block, start, end - start, origin)
        place, following = end, origin + max(block.canvas) + 1
    positions_3T[:, place:] = np.arange(following, following + len(input_ids) - place)
    return positions_3T


def _draw(block: WrittenBlock, start: int, length: int, origin: int) -> NDArray[np.int64]:
    """Return the positions of ``length`` tokens from the one that opens a block."""
    height, width = block.canvas
    on_canvas_2T = np.zeros((2, length), dtype=np.int64)
    overview = block.slots[0] - start
    behind = overview + _area(block.sizes[0])
    on_canvas_2T[:, 0] = -min(origin, 1)
    on_canvas_2T[:, overview:behind] = _grid(*(_stretch(*each) for each in zip(block.sizes[0], block.canvas)))  # noqa: B905  both are pairs
    on_canvas_2T[:, behind] = height, width
    for tile, (first, (rows, columns)) in enumerate(zip(block.slots[1:], block.sizes[1:], strict=True)):
        row, column = tile // block.columns * rows, tile % block.columns * columns
        opening, closing = first - start - 1, first - start + rows * columns
        on_canvas_2T[:, opening] = row, column
        on_canvas_2T[:, opening + 1 : closing] = _grid(np.arange(rows) + row, np.arange(columns) + column)
        on_canvas_2T[:, closing] = row + rows - 1, column + columns - 1
        if tile + 2 < len(block.slots) and (tile + 1) % block.columns == 0:  # what stands between two rows of tiles
            on_canvas_2T[:, closing + 1 : block.slots[tile + 2] - start - 1] = [[row + rows - 1], [width]]
    return np.concatenate([np.zeros((1, length), dtype=np.int64), on_canvas_2T]) + origin


def _area(size: _Size) -> int:
    return size[0] * size[1]


def _grid(rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return row and column of each cell, row by row: (2, rows * columns)."""
    return np.stack([np.repeat(rows, len(columns)), np.tile(columns, len(rows))])


def _stretch(number: int, length: int) -> NDArray[np.int64]:
    """Spread ``number`` cells over a canvas ``length`` long, halves to the even cell.

    In single precision and from both ends, as torch's ``linspace`` counts: a half that it misses is none.

    >>> _stretch(3, 4).tolist()
    [0, 2, 3]
    """
    if number == 1:
        return np.zeros(1, dtype=np.int64)
    last = np.float32(length - 1)
    step = last / np.float32(number - 1)
    steps = np.arange(number, dtype=np.float32)
    from_start, from_end = step * steps, last - step * steps[::-1]
    return np.rint(np.where(np.arange(number) < number // 2, from_start, from_end)).astype(np.int64)
