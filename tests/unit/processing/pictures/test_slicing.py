from __future__ import annotations

import doctest

import pytest

from minicpmv.errors import ConfigError, UsageError
from minicpmv.processing.pictures import slicing
from minicpmv.processing.pictures.slicing import SliceConfig, plan_slices


def test_documented_example_is_true() -> None:
    assert doctest.testmod(slicing).attempted == 1
    assert doctest.testmod(slicing).failed == 0


def test_small_picture_is_enlarged_and_not_cut() -> None:
    plan = plan_slices(30, 30, SliceConfig())
    assert (plan.source_size, plan.grid, plan.num_slices) == ((448, 448), None, 1)
    assert plan.tile_boxes == []


def test_one_tile_means_the_overview_alone() -> None:
    assert plan_slices(2000, 2000, SliceConfig(max_slice_nums=1)).num_slices == 1


def test_tile_boxes_cover_the_refined_picture_row_by_row() -> None:
    plan = plan_slices(1000, 1400, SliceConfig())
    assert plan.grid == (2, 3)
    assert plan.refine_size is not None
    assert plan.slice_size is not None
    width, height = plan.slice_size
    assert plan.tile_boxes[:3] == [
        (0, 0, width, height),
        (width, 0, 2 * width, height),
        (0, height, width, 2 * height),
    ]
    assert plan.tile_boxes[-1][2:] == plan.refine_size


@pytest.mark.parametrize("max_slice_nums", range(1, 10))
@pytest.mark.parametrize("size", [(50, 4000), (4000, 50), (1, 3000), (449, 448), (3000, 3001)])
def test_no_picture_gets_more_tiles_than_allowed_and_all_sides_are_whole_patches(
    size: tuple[int, int], max_slice_nums: int
) -> None:
    plan = plan_slices(*size, SliceConfig(max_slice_nums=max_slice_nums))
    assert plan.num_tiles <= max_slice_nums
    sides = [*plan.source_size, *(plan.slice_size or ())]
    assert all(side >= 14 and side % 14 == 0 for side in sides)
    assert plan.num_patches == sum(rows * columns for rows, columns in plan.tgt_sizes)


@pytest.mark.parametrize("value", [0, -1, 2.0, True, "9"])
def test_impossible_limit_is_refused_with_its_name(value: object) -> None:
    with pytest.raises(ConfigError, match=r"max_slice_nums: found .* expected a whole number of at least 1\n  fix: "):
        SliceConfig(max_slice_nums=value)  # pyright: ignore[reportArgumentType]


def test_picture_without_extent_is_refused() -> None:
    with pytest.raises(UsageError, match="found a size of 0 x 5 pixels"):
        plan_slices(0, 5, SliceConfig())
