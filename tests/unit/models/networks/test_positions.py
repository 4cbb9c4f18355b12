"""Where patches are, computed on the device from two numbers a slice."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from minicpmv.models.networks.positions import (
    SinePositions,
    axis_buckets,
    find_patches,
    grid_position_ids,
    row_position_ids,
    window_order,
)

CPU = torch.device("cpu")
SIZES = [(32, 32), (1, 1), (24, 42), (70, 2), (32, 32), (3, 300), (129, 1)]


def one_by_one(rows: int, columns: int, width: int) -> Tensor:
    """A slice's sine positions as the released code makes them: a table for each axis, float32 throughout."""
    half = width // 4
    exponent = torch.arange(half, dtype=torch.float32) / torch.tensor(width / 4.0, dtype=torch.float32)
    omega = 1.0 / 10000.0**exponent

    def axis(number: int) -> Tensor:
        angle = torch.outer(torch.arange(number, dtype=torch.float32), omega)
        return torch.cat([angle.sin(), angle.cos()], dim=1)

    by_column = axis(columns)[None].expand(rows, -1, -1)
    by_row = axis(rows)[:, None].expand(-1, columns, -1)
    return torch.cat([by_column, by_row], dim=-1).flatten(0, 1)


def test_patches_are_numbered_row_by_row_slice_by_slice() -> None:
    expected = [
        (number, row, column)
        for number, (rows, columns) in enumerate(SIZES)
        for row in range(rows)
        for column in range(columns)
    ]
    assert torch.stack(find_patches(SIZES, CPU), dim=1).tolist() == [list(each) for each in expected]


def test_windows_lie_row_by_row_and_their_patches_too() -> None:
    sizes = [(4, 6), (2, 2), (6, 4)]
    starts = [0, 24, 28]
    expected = [
        start + (top + row) * columns + left + column
        for start, (rows, columns) in zip(starts, sizes, strict=True)
        for top in range(0, rows, 2)
        for left in range(0, columns, 2)
        for row in (0, 1)
        for column in (0, 1)
    ]
    assert window_order(sizes, 2, CPU).tolist() == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("width", [256, 2304, 3584])
def test_sine_positions_are_bit_for_bit_those_of_each_slice_alone(width: int, dtype: torch.dtype) -> None:
    expected = torch.cat([one_by_one(*size, width) for size in SIZES]).to(dtype)
    assert torch.equal(SinePositions(width).of_grid(SIZES, CPU, dtype), expected)


def test_a_time_is_a_position_on_one_axis_and_none_is_zero() -> None:
    found = SinePositions(64).of_times([3, -1, 0, 500], CPU)
    of_axis = one_by_one(1, 501, 128)[:, :64]
    assert torch.equal(found, torch.stack([of_axis[3], torch.zeros(64), of_axis[0], of_axis[500]]))


def test_cells_of_a_grid_are_the_buckets_of_its_axes() -> None:
    def alone(rows: int, columns: int) -> Tensor:
        return (axis_buckets(rows, 70)[:, None] * 70 + axis_buckets(columns, 70)).flatten()

    expected = torch.cat([alone(*size) for size in SIZES])
    assert torch.equal(grid_position_ids(SIZES, 70, CPU), expected)


@pytest.mark.parametrize("lengths", [[1], [1024, 7, 1024, 1500, 7]])
def test_cells_of_a_strip_are_the_buckets_of_its_length(lengths: Sequence[int]) -> None:
    expected = torch.cat([axis_buckets(length, 70) for length in lengths])
    assert torch.equal(row_position_ids(lengths, 70, CPU), expected)


def test_every_length_of_an_axis_has_as_many_buckets() -> None:
    """Or patches would take the cells of another slice."""
    assert all(len(axis_buckets(length, 70)) == length for length in range(1, 2049))


def test_positions_made_while_answering_serve_training() -> None:
    positions = SinePositions(320)
    with torch.inference_mode():
        positions.of_grid([(5, 200)], CPU, torch.float32)
    learned = torch.ones(1000, 320, requires_grad=True)
    (learned * positions.of_grid([(5, 200)], CPU, torch.float32)).sum().backward()
    assert learned.grad is not None


_GROWTH = """
import random, resource, torch
from minicpmv.models.networks.positions import SinePositions, grid_position_ids
cpu, drawn, positions = torch.device("cpu"), random.Random(0), SinePositions({width})
def see(number):
    for _ in range(number):
        size = drawn.randint(2, 70), drawn.randint(2, 70)
        grid_position_ids([size], 70, cpu)
        positions.of_grid([size], cpu, torch.float32)
        positions.of_times([drawn.randrange(6000) for _ in range(6)], cpu)
see(20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
see({number})
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.parametrize(
    ("number", "width"), [pytest.param(*each, marks=pytest.mark.slow) for each in ((60, 3584), (20_000, 256))]
)
def test_memory_does_not_grow_with_the_sizes_of_pictures(number: int, width: int) -> None:
    """In MiB. Were a table of all positions kept for each size, it would grow by 1,000 and more."""
    program = _GROWTH.replace("{number}", str(number)).replace("{width}", str(width))
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert int(done.stdout) < 150
