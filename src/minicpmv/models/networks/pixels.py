"""Turns pixels that came as bytes into the values that the vision tower reads, on whatever device they are.

A byte has one value in each channel, which the image processor has computed on the host, and here it is only looked up:
CUDA divides by a number as it multiplies with its reciprocal, which rounds otherwise. What the table holds, and how
pictures become bytes, is ``minicpmv.processing``'s.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["read_pixels"]

# Shape letters in this file
#   P patches    C channels, 3    N pixels of a patch

_TABLE = (3, 256)
_PATCHES_AT_ONCE = 2048
"""Patches looked up at once: one channel of them takes 1.6 MB as an index, and at most as much as values."""


def read_pixels(pixels_PV: Tensor, table: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Return the values of patches.

    Args:
        pixels_PV: (P, C * N), channel by channel: values in any float type, or bytes (uint8).
        table: (C, 256) float, the value of each byte in each channel; None where pixels are values.
        dtype: What the values are rounded to. Those of bytes are the same as if they had come as float32.

    Returns:
        (P, C * N) in ``dtype``. Of bytes it is a new tensor, and at most 4 MB are taken besides.

    Raises:
        ValueError: Bytes came without a table, values with one, or either has another type or shape.
    """
    if pixels_PV.is_floating_point():
        if table is not None:
            raise ValueError(
                f"pixel_table came with pixel_values in {pixels_PV.dtype}, which are normalised already; "
                "leave it out, or pass the bytes"
            )
        return pixels_PV.to(dtype)
    if pixels_PV.dtype != torch.uint8:
        raise ValueError(
            f"pixel_values are {pixels_PV.dtype}, expected values in a float type, or bytes in torch.uint8"
        )
    if table is None:
        raise ValueError(
            "pixel_values came as bytes without pixel_table; pass all that the collator returned, or the values that "
            "the processor's apply_chat_template returns"
        )
    if table.shape != _TABLE or not table.is_floating_point():
        raise ValueError(f"pixel_table is {tuple(table.shape)} in {table.dtype}, expected {_TABLE} in a float type")
    table = table.to(dtype)  # before the look-up: of 768 numbers instead of millions
    bytes_PCN = pixels_PV.unflatten(1, (len(table), -1))
    values_PCN = torch.empty_like(bytes_PCN, dtype=dtype)
    # In pieces, because an index takes four times a byte's room.
    for start in range(0, len(bytes_PCN), _PATCHES_AT_ONCE):
        some = slice(start, start + _PATCHES_AT_ONCE)
        for channel, values in enumerate(table):
            bytes_PN = bytes_PCN[some, channel]
            values_PCN[some, channel] = values.index_select(0, bytes_PN.flatten().int()).view_as(bytes_PN)
    return values_PCN.flatten(1)
