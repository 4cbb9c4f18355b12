from __future__ import annotations

import base64
import io

import pytest
from PIL import Image

from minicpmv.pages.images import data_url
from minicpmv.processing.pictures.slicing import SliceConfig, plan_slices
from minicpmv.show.pictures import MAX_SHOWN_PIXELS, show_picture, tiles_of
from tests.tiny import picture

SIZES = [(1000, 600), (1600, 1067), (427, 1280), (3000, 301), (449, 449), (2400, 2400)]


def opened(url: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))


def test_a_grid_of_two_columns_is_cut_in_the_middle_of_the_picture() -> None:
    plan = plan_slices(1000, 600, SliceConfig())
    assert [(tile.left, tile.top, tile.right, tile.bottom) for tile in tiles_of(plan)] == [
        (0, 0, 500, 600),
        (500, 0, 1000, 600),
    ]


@pytest.mark.parametrize("size", SIZES)
def test_lines_are_where_the_tiles_of_the_plan_are_cut(size: tuple[int, int]) -> None:
    """Resized as the plan says, every line falls on the edge of a tile, to the pixel."""
    plan = plan_slices(*size, SliceConfig())
    assert plan.refine_size is not None
    across, down = plan.refine_size[0] / size[0], plan.refine_size[1] / size[1]
    for tile, (left, top, right, bottom) in zip(tiles_of(plan), plan.tile_boxes, strict=True):
        assert (tile.left * across, tile.right * across) == pytest.approx((left, right), abs=1e-6)
        assert (tile.top * down, tile.bottom * down) == pytest.approx((top, bottom), abs=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_tiles_are_numbered_row_by_row_and_leave_one_line_between_neighbours(size: tuple[int, int]) -> None:
    plan = plan_slices(*size, SliceConfig())
    assert plan.grid is not None
    columns, rows = plan.grid
    shown = show_picture(Image.new("RGB", size), plan, number=1, tokens_of_each=[64] * plan.num_slices)
    assert [tile.number for tile in shown.tiles] == list(range(1, columns * rows + 1))
    assert len(shown.vertical_cuts) == columns - 1
    assert len(shown.horizontal_cuts) == rows - 1
    assert shown.num_tokens == 64 * (1 + columns * rows)


def test_a_picture_that_is_not_cut_has_no_line() -> None:
    plan = plan_slices(300, 200, SliceConfig())
    shown = show_picture(Image.new("RGB", (300, 200)), plan, number=1, tokens_of_each=[64] * plan.num_slices)
    assert (shown.tiles, shown.vertical_cuts, shown.horizontal_cuts) == ((), [], [])
    assert shown.slice_names(is_only=True) == ["overview"]
    assert shown.slice_names(is_only=False) == ["image 1 overview"]


def test_a_large_picture_is_embedded_small_and_its_overview_as_the_model_sees_it() -> None:
    plan = plan_slices(4000, 1000, SliceConfig())
    shown = show_picture(Image.new("RGB", (4000, 1000)), plan, number=1, tokens_of_each=[64] * plan.num_slices)
    assert opened(shown.url).size == (MAX_SHOWN_PIXELS, 240)
    assert opened(shown.overview_url).size == plan.source_size


def test_a_tiny_picture_is_embedded_without_loss() -> None:
    image = picture(50, 40)
    assert opened(data_url(image)).tobytes() == image.tobytes()


def test_embedded_bytes_are_shown_like_a_file() -> None:
    file = io.BytesIO()
    picture(50, 40).save(file, "PNG")
    shown = show_picture(file.getvalue(), plan_slices(50, 40, SliceConfig()), number=1, tokens_of_each=[64])
    assert shown.name == "embedded image"
    assert opened(shown.url).size == (50, 40)
