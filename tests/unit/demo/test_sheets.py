"""Contact sheets come back as they were written."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from minicpmv.demo.pack import pack_digits
from minicpmv.demo.sheets import ASSETS, read_sheet, write_sheet


@pytest.mark.parametrize("count", [1, 60, 61, 130])
def test_tiles_and_labels_come_back(tmp_path: Path, count: int) -> None:
    tiles = np.random.default_rng(0).integers(0, 17, (count, 8, 8), dtype=np.uint8)
    labels = "".join(str(index % 10) for index in range(count))
    write_sheet(tmp_path / "sheet.png", tiles, labels, num_levels=17)
    read, read_labels = read_sheet(tmp_path / "sheet.png", tile_pixels=8)
    np.testing.assert_array_equal(read, tiles)
    assert read_labels == labels


def test_every_tile_needs_a_label(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2 tiles with 1 labels"):
        write_sheet(tmp_path / "sheet.png", np.zeros((2, 8, 8), dtype=np.uint8), "1", num_levels=2)


def test_packing_repeats_the_shipped_sheet(tmp_path: Path) -> None:
    tiles, labels = read_sheet(ASSETS / "digits.png", tile_pixels=8)
    rows = [
        ",".join(str(16 - level) for level in tile.ravel()) + f",{label}"
        for tile, label in zip(tiles, labels, strict=True)
    ]
    source = tmp_path / "digits.csv.gz"
    source.write_bytes(gzip.compress("\n".join(rows).encode()))
    pack_digits(source, tmp_path / "digits.png")
    repeated, repeated_labels = read_sheet(tmp_path / "digits.png", tile_pixels=8)
    np.testing.assert_array_equal(repeated, tiles)
    assert repeated_labels == labels
