"""Where a patch lies: position ids and tables for the vision towers, sine positions for the resampler.

Nothing here is learned; the learned tables belong to the tower. All ids are computed on the CPU in float32 exactly as
the released code does, because its rounding decides which bucket a patch falls into.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

__all__ = ["axis_buckets", "grid_position_ids", "resize_table", "row_position_ids", "sincos_grid", "sincos_times"]

# Shape letters in this file
#   N patches along one axis, or in one slice    R, C rows and columns    D channels


@lru_cache(maxsize=4096)
def axis_buckets(num_patches: int, table_side: int) -> Tensor:
    """Spread patches along one axis over the cells of a learned table's side.

    The result is not ``floor(i * table_side / num_patches)``: float32 steps land just under a boundary for 25, 49, 50
    and more patches, and the released weights were trained so. Source: facts of the released towers, 2.5 and later.

    Args:
        num_patches: Patches along the axis; may exceed ``table_side``.
        table_side: Cells along one side of the table, 70 in every release.

    Returns:
        (N,) int64 on the CPU, each in ``[0, table_side)``. Shared between calls: do not write into it.
    """
    step = 1 / torch.tensor(num_patches, device="cpu")
    fractions_N = torch.arange(0, 1 - 1e-6, step.item(), dtype=torch.float32, device="cpu")
    boundaries = torch.arange(1 / table_side, 1.0, 1 / table_side, dtype=torch.float32, device="cpu")
    return torch.bucketize(fractions_N, boundaries, right=True)


@lru_cache(maxsize=4096)
def grid_position_ids(rows: int, columns: int, table_side: int) -> Tensor:
    """Table rows for the patches of one slice, by row and column (2.6 and later); (R*C,) int64 on the CPU."""
    row_R1 = axis_buckets(rows, table_side)[:, None]
    column_1C = axis_buckets(columns, table_side)[None, :]
    return (row_R1 * table_side + column_1C).flatten()


def row_position_ids(num_patches: int, table_side: int) -> Tensor:
    """Table rows for a strip of patches, all in the table's first row (2.5); (N,) int64 on the CPU."""
    return axis_buckets(num_patches, table_side)


def resize_table(table_ND: Tensor, rows: int, columns: int) -> Tensor:
    """Resize a learned square table of positions to one slice's shape (2.0).

    Bicubic with antialiasing in float32, as timm resizes absolute positions; unchanged when the shape already fits.
    Gradients flow back into the table.

    Args:
        table_ND: (side * side, D), row by row, any float dtype.
        rows: Patches from top to bottom.
        columns: Patches from left to right.

    Returns:
        (rows * columns, D) in the dtype of ``table_ND``.
    """
    side = round(table_ND.shape[0] ** 0.5)
    if (rows, columns) == (side, side):
        return table_ND
    square_1Dss = table_ND.float().unflatten(0, (side, side)).permute(2, 0, 1)[None]
    resized_1DRC = torch.nn.functional.interpolate(square_1Dss, size=(rows, columns), mode="bicubic", antialias=True)
    return resized_1DRC[0].flatten(1).T.to(table_ND.dtype)


def _sincos(places_N: Tensor, dim: int) -> Tensor:
    """``[sin | cos]`` of ``place * 10000 ** (-k / (dim / 2))``; (N, dim) float32 on the CPU."""
    # float64 until the very end would differ from the released tables, which are numpy float32 throughout.
    half = dim // 2
    exponent = torch.arange(half, dtype=torch.float32, device="cpu") / torch.tensor(dim / 2.0, dtype=torch.float32)
    omega = 1.0 / 10000.0**exponent
    angle = torch.outer(places_N, omega)
    return torch.cat([angle.sin(), angle.cos()], dim=1)


@lru_cache(maxsize=64)
def _sincos_axis(num_positions: int, dim: int) -> Tensor:
    return _sincos(torch.arange(num_positions, dtype=torch.float32, device="cpu"), dim)


@lru_cache(maxsize=1024)
def sincos_grid(rows: int, columns: int, dim: int) -> Tensor:
    """Two-dimensional sine positions: the first half of the channels encodes the column, the second half the row.

    Made from one axis at a time, so no side is too long and no table of every position is kept.

    Args:
        rows: Patches from top to bottom.
        columns: Patches from left to right.
        dim: Channels; a multiple of 4.

    Returns:
        (rows * columns, dim) float32 on the CPU, row by row. Shared between calls: do not write into it.
    """
    longest = max(rows, columns)
    axis = _sincos_axis(longest, dim // 2)
    by_column = axis[:columns].expand(rows, columns, dim // 2)
    by_row = axis[:rows, None].expand(rows, columns, dim // 2)
    return torch.cat([by_column, by_row], dim=-1).flatten(0, 1)


@lru_cache(maxsize=1024)
def sincos_times(times: tuple[int, ...], dim: int) -> Tensor:
    """One-dimensional sine positions of points in time (4.5).

    Args:
        times: Time index of each slice; below 0 for a slice that has none.
        dim: Channels; even.

    Returns:
        (len(times), dim) float32 on the CPU, zeros where there is no time. Shared between calls: do not write into it.
    """
    table = _sincos(torch.tensor(times, dtype=torch.float32, device="cpu"), dim)
    return table * torch.tensor([[float(time >= 0)] for time in times])
