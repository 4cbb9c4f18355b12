"""Writes and reads contact sheets: many small grey pictures of one size in a PNG, with one label character each.

A person can open a sheet, and it is far smaller than as many files. This module does not know what its pictures show.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["ASSETS", "read_sheet", "write_sheet"]

ASSETS: Path = Path(__file__).parent / "assets"
"""Folder of the demo's shipped files."""

_NUM_COLUMNS = 60


def write_sheet(path: Path, tiles: NDArray[np.uint8], labels: str, *, num_levels: int) -> None:
    """Write ``path`` (a PNG) and, next to it, the labels (``.txt``).

    Args:
        path: The file; its name ends with ``.png``.
        tiles: Grey levels, (count, height, width), 0 (black) to ``num_levels - 1`` (white).
        labels: One character per tile.
        num_levels: Number of grey levels, at most 256; few levels make a small file.

    Raises:
        ValueError: There are not as many labels as tiles.
    """
    count, height, width = tiles.shape
    if len(labels) != count:
        raise ValueError(f"{count} tiles with {len(labels)} labels")
    num_rows = -(-count // _NUM_COLUMNS)
    sheet = np.zeros((num_rows * _NUM_COLUMNS, height, width), dtype=np.uint8)
    sheet[:count] = tiles
    sheet = sheet.reshape(num_rows, _NUM_COLUMNS, height, width).swapaxes(1, 2)
    image = Image.frombytes("P", (_NUM_COLUMNS * width, num_rows * height), sheet.tobytes())
    image.putpalette([level for index in range(num_levels) for level in [255 * index // (num_levels - 1)] * 3])
    image.save(path, optimize=True)
    lines = [labels[start : start + _NUM_COLUMNS] for start in range(0, count, _NUM_COLUMNS)]
    path.with_suffix(".txt").write_text("\n".join(lines) + "\n", encoding="ascii")


def read_sheet(path: Path, *, tile_pixels: int) -> tuple[NDArray[np.uint8], str]:
    """Read what ``write_sheet`` wrote: the tiles' levels, (count, side, side), and their labels."""
    labels = "".join(path.with_suffix(".txt").read_text(encoding="ascii").split())
    with Image.open(path) as image:
        sheet = np.asarray(image)  # mode P: the levels, not the colours
    num_rows = sheet.shape[0] // tile_pixels
    tiles = sheet.reshape(num_rows, tile_pixels, _NUM_COLUMNS, tile_pixels).swapaxes(1, 2)
    return tiles.reshape(-1, tile_pixels, tile_pixels)[: len(labels)].copy(), labels
