"""Decides how one picture becomes slices: sizes in, an overview and a grid of tiles out; integers only, no pixels.

Nothing is resized here and nothing is imported beyond the standard library, so a data check can count a record's image
tokens from the picture's header alone. Source: the released image processors and ``finetune/dataset.py`` of
OpenBMB/MiniCPM-V at 0dbb566, which all compute these sizes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from minicpmv.errors import ConfigError, UsageError

__all__ = ["SliceConfig", "SlicePlan", "plan_slices"]

Size = tuple[int, int]
Box = tuple[int, int, int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class SliceConfig:
    """How one picture becomes an overview and, when large, a grid of tiles."""

    scale_resolution: int = 448
    """Pixels. Every slice covers about this many pixels squared."""
    patch_size: int = 14
    """Pixels. Side of one patch."""
    token_side: int = 1
    """Patches. The sides of a slice are whole multiples of so many patches."""
    max_slice_nums: int = 9
    """Most tiles cut from one picture, overview not counted; 1 turns tiling off."""

    @property
    def unit(self) -> int:
        """Pixels. The sides of a slice are whole multiples of it."""
        return self.patch_size * self.token_side

    def __post_init__(self) -> None:
        for name in ("scale_resolution", "patch_size", "max_slice_nums"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(
                    f"{name}: found {value!r}, expected a whole number of at least 1\n"
                    f"  fix: set {name} as the checkpoint's preprocessor_config.json (MiniCPM-V-2: config.json) has it"
                )


@dataclass(frozen=True, kw_only=True, slots=True)
class SlicePlan:
    """The slices of one picture. All sizes are (width, height) in pixels."""

    image_size: Size
    """The picture's own size, which the plan was made for."""
    patch_size: int
    source_size: Size
    """What the whole picture is resized to for the overview."""
    grid: Size | None = None
    """(columns, rows) of the tiles, or None when the overview is all there is."""
    refine_size: Size | None = None
    """What the whole picture is resized to before the tiles are cut from it."""
    slice_size: Size | None = None
    """Size of every tile."""

    @property
    def num_tiles(self) -> int:
        """Tiles, overview not counted."""
        return self.grid[0] * self.grid[1] if self.grid else 0

    @property
    def num_slices(self) -> int:
        """Tiles and overview."""
        return 1 + self.num_tiles

    @property
    def tgt_sizes(self) -> list[Size]:
        """(rows, columns) of each slice in patches, overview first, then the tiles row by row."""
        sizes = [self.source_size] + [self.slice_size] * self.num_tiles if self.slice_size else [self.source_size]
        return [(height // self.patch_size, width // self.patch_size) for width, height in sizes]

    @property
    def num_patches(self) -> int:
        """Patches of all slices."""
        return sum(rows * columns for rows, columns in self.tgt_sizes)

    @property
    def tile_boxes(self) -> list[Box]:
        """(left, top, right, bottom) of each tile in the refined picture, row by row."""
        if self.grid is None or self.slice_size is None:
            return []
        (columns, rows), (width, height) = self.grid, self.slice_size
        return [
            (column * width, row * height, (column + 1) * width, (row + 1) * height)
            for row in range(rows)
            for column in range(columns)
        ]


def plan_slices(width: int, height: int, config: SliceConfig) -> SlicePlan:
    """Plan the slices of a picture of ``width`` x ``height`` pixels.

    A small picture is enlarged to about ``scale_resolution`` squared. A larger one is shrunk to that for the overview
    and also cut into the grid whose tiles come closest to being square.

    >>> plan_slices(1000, 600, SliceConfig()).grid
    (2, 1)

    Raises:
        UsageError: A side is not at least one pixel.
    """
    if width < 1 or height < 1:
        raise UsageError(
            f"image: found a size of {width} x {height} pixels, expected at least 1 x 1\n  fix: replace the image"
        )
    num_wanted = math.ceil(width * height / config.scale_resolution**2)
    num_wanted = min(num_wanted, config.max_slice_nums)
    if num_wanted <= 1:
        return SlicePlan(
            image_size=(width, height),
            patch_size=config.patch_size,
            source_size=_fit(width, height, config, enlarge=True),
        )
    columns, rows = _best_grid(width, height, num_wanted, config.max_slice_nums)
    # Not floor division: the released code divides to floats here, and their ratio decides the tile's size.
    tile_width = _to_multiple(width, columns) / columns
    tile_height = _to_multiple(height, rows) / rows
    tile = _fit(tile_width, tile_height, config, enlarge=True)
    return SlicePlan(
        image_size=(width, height),
        patch_size=config.patch_size,
        source_size=_fit(width, height, config, enlarge=False),
        grid=(columns, rows),
        refine_size=(tile[0] * columns, tile[1] * rows),
        slice_size=tile,
    )


def _to_multiple(length: float, unit: int) -> int:
    """Round to the nearest multiple of ``unit``, halves to the even one, at least one unit."""
    return max(round(length / unit) * unit, unit)


def _fit(width: float, height: float, config: SliceConfig, *, enlarge: bool) -> Size:
    """Scale to about ``scale_resolution`` squared, keeping the shape, then round both sides to whole units."""
    if enlarge or width * height > config.scale_resolution**2:
        ratio = width / height
        height = int(config.scale_resolution / math.sqrt(ratio))
        width = int(height * ratio)  # from the truncated height, as the released code has it
    return _to_multiple(width, config.unit), _to_multiple(height, config.unit)


def _best_grid(width: int, height: int, num_wanted: int, max_slice_nums: int) -> Size:
    """Return the (columns, rows) nearest to the picture's shape; of equals, the first with the fewest columns wins."""
    candidates = [
        (columns, count // columns)
        for count in (num_wanted - 1, num_wanted, num_wanted + 1)
        if 1 < count <= max_slice_nums
        for columns in range(1, count + 1)
        if count % columns == 0
    ]
    shape = math.log(width / height)
    return min(candidates, key=lambda grid: abs(shape - math.log(grid[0] / grid[1])))
