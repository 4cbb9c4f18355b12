"""Pixels against the released image processors, bit for bit."""

from __future__ import annotations

import numpy as np
from PIL import Image
from safetensors.numpy import load_file

from minicpmv.processing.images import image_patches, load_image
from minicpmv.processing.slicing import SliceConfig, plan_slices
from tests.parity.cases import FIXTURES

COMPONENTS = FIXTURES / "components"


def patch_rows(pixels: np.ndarray, patch: int = 14) -> np.ndarray:
    """Cut one (3, height, width) slice into rows, one patch at a time: a plain way to check the fast one."""
    _, height, width = pixels.shape
    return np.stack(
        [
            pixels[:, top : top + patch, left : left + patch].reshape(-1)
            for top in range(0, height, patch)
            for left in range(0, width, patch)
        ]
    )


def normalised(pixels: np.ndarray) -> np.ndarray:
    return (pixels.astype(np.float32) / np.float32(255) - np.float32(0.5)) / np.float32(0.5)


def test_slices_of_a_noise_picture_are_bit_equal() -> None:
    image = load_image(COMPONENTS / "noise_186x90.png")
    stored = load_file(COMPONENTS / "slice_pixels_u8.safetensors")
    plan = plan_slices(*image.size, SliceConfig(scale_resolution=56, max_slice_nums=4))
    assert plan.grid == (3, 1)
    names = ("source", "slice_0_0", "slice_0_1", "slice_0_2")
    expected = np.concatenate([patch_rows(normalised(stored[name])) for name in names])
    patches = image_patches(image, plan)
    assert patches.dtype == np.float32
    np.testing.assert_array_equal(patches, expected)


def test_patch_rows_hold_channel_row_column_as_the_released_strip() -> None:
    """The released layout is one strip (3, 14, patches * 14); a row here is one of its patches, flattened."""
    stored = load_file(COMPONENTS / "reshape_by_patch.safetensors")
    strip = stored["patches"]
    from_strip = strip.reshape(3, 14, -1, 14).transpose(2, 0, 1, 3).reshape(-1, 588)
    np.testing.assert_array_equal(patch_rows(stored["image"]), from_strip)


def test_every_byte_value_is_rounded_as_released() -> None:
    values = np.arange(14 * 14 * 3 * 16, dtype=np.int64) % 256
    image = Image.fromarray(values.astype(np.uint8).reshape(56, 56, 3))
    plan = plan_slices(56, 56, SliceConfig(scale_resolution=56, max_slice_nums=1))
    expected = patch_rows(normalised(np.asarray(image).transpose(2, 0, 1)))
    np.testing.assert_array_equal(image_patches(image, plan), expected)
