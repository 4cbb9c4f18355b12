"""Sizes of 4.6's slices against transformers' own image processor, on random pictures; no pixel is made."""

from __future__ import annotations

import random

import pytest
from transformers.models.minicpmv4_6.image_processing_pil_minicpmv4_6 import MiniCPMV4_6ImageProcessorPil

from minicpmv.processing.pictures.slicing import SliceConfig, plan_slices
from minicpmv.releases.table import VERSIONS

SIDES = VERSIONS["4.6"].reading.downsample_modes
SCALE, PATCH = 448, 14


def draw(number: int, seed: int) -> list[tuple[int, int, int, str]]:
    """Draw sizes, limits and modes: most of them pictures of a camera, some slivers."""
    source = random.Random(seed)
    sides = [lambda: source.randint(1, 4000), lambda: source.randint(1, 700), lambda: int(2 ** source.uniform(0, 13))]
    return [
        (source.choice(sides)(), source.choice(sides)(), source.randint(1, 36), source.choice(list(SIDES)))
        for _ in range(number)
    ]


def differences(cases: list[tuple[int, int, int, str]]) -> list[tuple[int, int, int, str]]:
    released = MiniCPMV4_6ImageProcessorPil(scale_resolution=SCALE, patch_size=PATCH)
    return [case for case in cases if planned(*case) != sized(released, *case)]


def planned(width: int, height: int, limit: int, mode: str) -> list[object]:
    plan = plan_slices(width, height, SliceConfig(token_side=SIDES[mode], max_slice_nums=limit))
    return [plan.grid, plan.source_size, plan.slice_size]


def sized(released: MiniCPMV4_6ImageProcessorPil, width: int, height: int, limit: int, mode: str) -> list[object]:
    size, how = (height, width), {"scale_resolution": SCALE, "patch_size": PATCH, "downsample_mode": mode}
    grid = released.get_sliced_grid(size, limit, SCALE)
    overview = released.find_best_resize(size, allow_upscale=grid is None, **how)
    if grid is None:
        return [None, overview[::-1], None]
    refined = released.get_refine_size(size, grid, allow_upscale=True, **how)
    rows, columns = grid
    return [(columns, rows), overview[::-1], (refined[1] // columns, refined[0] // rows)]


def test_2000_pictures_are_cut_alike() -> None:
    assert differences(draw(2_000, seed=6)) == []


@pytest.mark.slow
def test_60000_pictures_are_cut_alike() -> None:
    assert differences(draw(60_000, seed=7)) == []
