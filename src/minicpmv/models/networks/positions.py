"""Where a patch lies: position ids and tables for the vision towers, sine positions for the resampler.

Nothing here is learned; the learned tables belong to the tower. Where a patch lies is computed on the CPU in float32,
exactly as the released code does, because its rounding decides which bucket a patch falls into. That is one axis at a
time, at most a MB; each patch then looks up its row and column on the device. Times have no table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = [
    "PatchPlaces",
    "SinePositions",
    "axis_buckets",
    "find_patches",
    "fraction_buckets",
    "grid_position_ids",
    "resize_table",
    "row_position_ids",
    "window_order",
]

# Shape letters in this file
#   N positions along one axis    S slices    P patches of all slices    R, C rows and columns    D channels

Size = tuple[int, int]

_AXIS_STEP = 64
"""Positions by which the table of an axis grows; slices of pictures rarely have more along a side."""


@lru_cache(maxsize=4096)
def axis_buckets(num_patches: int, table_side: int) -> Tensor:
    """Spread patches along one axis over the cells of a learned table's side.

    The result is not ``floor(i * table_side / num_patches)``: float32 steps land just under a boundary for 25, 49, 50
    and more patches, and the released weights were trained so. Source:
    modeling_navit_siglip.py of openbmb/MiniCPM-V-2_6, ``SiglipVisionEmbeddings.forward``.

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
def fraction_buckets(num_patches: int, table_side: int) -> Tensor:
    """Spread patches along one axis over the cells of a learned table's side, as 4.6 and later do.

    They divide each place by the number of patches where :func:`axis_buckets` counts in steps, and both round in
    float32: of up to 1,199 patches 240 numbers come out otherwise, 50, 58 and 100 among them.
    Source: ``get_vision_nearest_position_ids`` of transformers 5.23.
    """
    boundaries = torch.arange(1 / table_side, 1.0, 1 / table_side, device="cpu")
    return torch.bucketize(torch.arange(num_patches, device="cpu") / num_patches, boundaries, right=True)


class PatchPlaces(NamedTuple):
    """Where each patch of a batch is; (P,) int64 each."""

    slice_P: Tensor
    """Number of its slice."""
    row_P: Tensor
    """In its slice, from the top."""
    column_P: Tensor
    """In its slice, from the left."""


def find_patches(sizes: Sequence[Size], device: torch.device) -> PatchPlaces:
    """Number the patches of slices that are laid end to end, each row by row.

    Two numbers a slice travel to the device; the rest is computed there, without a wait.

    Args:
        sizes: Rows and columns of each slice.
        device: Where the numbers are needed.
    """
    size_S2 = torch.tensor(sizes, dtype=torch.int64, device="cpu").to(device, non_blocking=True)
    num_patches = sum(rows * columns for rows, columns in sizes)
    count_S = size_S2.prod(dim=1)
    slice_P = torch.arange(len(sizes), device=device).repeat_interleave(count_S, output_size=num_patches)
    start_S = count_S.cumsum(0) - count_S
    place_P = torch.arange(num_patches, device=device) - start_S[slice_P]
    columns_P = size_S2[:, 1][slice_P]
    return PatchPlaces(slice_P, place_P // columns_P, place_P % columns_P)


def window_order(sizes: Sequence[Size], side: int, device: torch.device) -> Tensor:
    """List the patches of slices that lie end to end window by window, row by row in each; (P,) int64.

    Args:
        sizes: Rows and columns of each slice, whole multiples of ``side``.
        side: Patches along each side of a window.
        device: Where the numbers are needed.
    """
    places = find_patches(sizes, device)
    columns_S = torch.tensor([columns for _, columns in sizes], device="cpu").to(device, non_blocking=True)
    number_P = torch.arange(len(places.slice_P), device=device)
    row_P, column_P = places.row_P % side, places.column_P % side
    # A band of windows holds the same numbers in either order.
    band_P = number_P - row_P * columns_S[places.slice_P] - places.column_P
    moved_P = band_P + places.column_P // side * side**2 + row_P * side + column_P
    return torch.empty_like(number_P).scatter_(0, moved_P, number_P)


def grid_position_ids(
    sizes: Sequence[Size],
    table_side: int,
    device: torch.device,
    buckets: Callable[[int, int], Tensor] = axis_buckets,
) -> Tensor:
    """Find each patch's cell in the tower's learned table, by row and column (2.6 and later).

    Args:
        sizes: Rows and columns of each slice.
        table_side: Cells along one side of the table.
        device: Where the ids are needed.
        buckets: Spreads the patches of an axis: ``axis_buckets``, or ``fraction_buckets``.

    Returns:
        (P,) int64, for all slices end to end.
    """
    places = find_patches(sizes, device)
    bucket_N, starts = _buckets_of([axis for size in sizes for axis in size], table_side, device, buckets)
    row_start_S, column_start_S = starts.view(-1, 2).unbind(dim=1)
    row_P = bucket_N[row_start_S[places.slice_P] + places.row_P]
    column_P = bucket_N[column_start_S[places.slice_P] + places.column_P]
    return row_P * table_side + column_P


def row_position_ids(lengths: Sequence[int], table_side: int, device: torch.device) -> Tensor:
    """Find each patch's cell where slices are strips in the first row of the table (2.5); (P,) int64."""
    places = find_patches([(1, length) for length in lengths], device)
    bucket_N, starts = _buckets_of(lengths, table_side, device, axis_buckets)
    return bucket_N[starts[places.slice_P] + places.column_P]


def _buckets_of(
    axes: Sequence[int], table_side: int, device: torch.device, spread: Callable[[int, int], Tensor]
) -> tuple[Tensor, Tensor]:
    """Join the buckets of all different lengths of axes; return them, and where those of each axis start."""
    starts, end = {}, 0
    for length in dict.fromkeys(axes):
        starts[length], end = end, end + length
    buckets = torch.cat([spread(length, table_side) for length in starts])
    start_of_each = torch.tensor([starts[length] for length in axes], device="cpu")
    return buckets.to(device, non_blocking=True), start_of_each.to(device, non_blocking=True)


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
    """``[sin | cos]`` of ``place * 10000 ** (-k / (dim / 2))``; (N, dim) float32, where the places are."""
    # float64 until the very end would differ from the released tables, which are numpy float32 throughout.
    half = dim // 2
    exponent = torch.arange(half, dtype=torch.float32, device="cpu") / torch.tensor(dim / 2.0, dtype=torch.float32)
    omega = 1.0 / 10000.0**exponent
    angle = torch.outer(places_N, omega.to(places_N.device, non_blocking=True))
    return torch.cat([angle.sin(), angle.cos()], dim=1)


class SinePositions:
    """Sine positions of patches and of points in time.

    A table of one axis stays on the device, and each patch takes two of its rows: no side is too long, no table of all
    positions is kept, and none travels. The tables are the object's own, so that a model that is traced with tensors
    without values leaves none of them to others.

    Args:
        dim: Channels; a multiple of 4.
    """

    def __init__(self, dim: int) -> None:
        self._dim = dim
        self._tables: dict[tuple[int, int, torch.device, torch.dtype], Tensor] = {}

    def of_grid(self, sizes: Sequence[Size], device: torch.device, dtype: torch.dtype) -> Tensor:
        """Encode where patches are: the first half of the channels encodes the column, the second half the row.

        Args:
            sizes: Rows and columns of each slice, in patches.
            device: Where they are needed.
            dtype: To which the float32 values are rounded.

        Returns:
            (P, dim), for all slices end to end, each row by row.
        """
        places = find_patches(sizes, device)
        axis = self._find_axis(max(map(max, sizes)) - 1, self._dim // 2, device, dtype)
        return torch.cat([axis[places.column_P], axis[places.row_P]], dim=-1)

    def of_times(self, times: Sequence[int], device: torch.device) -> Tensor:
        """Encode points in time (4.5).

        Args:
            times: Time index of each slice; below 0 for a slice that has none.
            device: Where they are needed.

        Returns:
            (len(times), dim) float32, zeros where there is no time.
        """
        # Of these times alone: of a film's thousands, a table up to the last would be hundreds of MB. On the device,
        # because the host waits for a copy above 64 KB, which four rows are. There a sine may differ in its last bit.
        time_S = torch.tensor(times, dtype=torch.float32, device="cpu").to(device, non_blocking=True)
        return _sincos(time_S.clamp(min=0), self._dim) * (time_S >= 0)[:, None]

    def _find_axis(self, last: int, dim: int, device: torch.device, dtype: torch.dtype) -> Tensor:
        """Return a table that has the position ``last``: of a few lengths, so that few are ever made."""
        length = _AXIS_STEP * (last // _AXIS_STEP + 1)
        key = length, dim, device, dtype
        if key not in self._tables:
            # Made under inference_mode, it could not take part in a training step later.
            with torch.inference_mode(False):
                table = _sincos(torch.arange(length, dtype=torch.float32, device="cpu"), dim)
                self._tables[key] = table.to(dtype).to(device, non_blocking=True)
        return self._tables[key]
