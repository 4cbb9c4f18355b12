"""Pixels against the released image processors, bit for bit, and those of training against those of chat."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

from minicpmv.data.samples.collation import PackedCollator
from minicpmv.data.samples.dataset import ConversationDataset
from minicpmv.data.sources.loading import load_records
from minicpmv.models.networks.pixels import read_pixels
from minicpmv.processing.image_processor import MiniCPMVImageProcessor
from minicpmv.processing.pictures.patches import load_image
from minicpmv.processing.pictures.slicing import SliceConfig, SlicePlan, plan_slices
from minicpmv.processing.processor import MiniCPMVProcessor
from tests.parity.cases import FIXTURES, VERSIONS
from tests.tiny import conversation, write_data

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


def values_of(image: Image.Image, plan: SlicePlan) -> np.ndarray:
    processor = MiniCPMVImageProcessor()
    return processor.normalise(processor.patches(image, plan))


def test_slices_of_a_noise_picture_are_bit_equal() -> None:
    image = load_image(COMPONENTS / "noise_186x90.png")
    stored = load_file(COMPONENTS / "slice_pixels_u8.safetensors")
    plan = plan_slices(*image.size, SliceConfig(scale_resolution=56, max_slice_nums=4))
    assert plan.grid == (3, 1)
    names = ("source", "slice_0_0", "slice_0_1", "slice_0_2")
    expected = np.concatenate([patch_rows(normalised(stored[name])) for name in names])
    values = values_of(image, plan)
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, expected)


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
    np.testing.assert_array_equal(values_of(image, plan), expected)


@pytest.mark.parametrize("version", VERSIONS)
def test_training_reads_what_chat_reads_from_a_quarter_of_the_bytes(version: str, tmp_path: Path) -> None:
    """The values of chat are those of the released processor, ``test_prompts``."""
    pictures = sorted((FIXTURES / version / "images").iterdir())
    processor = MiniCPMVProcessor.from_pretrained(FIXTURES / version)
    records = [{"id": p.name, "image": str(p), "conversations": conversation("<image>\nWhat?", "A.")} for p in pictures]
    data = write_data(tmp_path / "train.json", records)
    batch = PackedCollator(0)(list(ConversationDataset(load_records(data), processor, max_length=4096)))
    asked = [[{"role": "user", "content": [{"type": "image", "image": str(picture)}]}] for picture in pictures]
    expected = torch.cat([processor.apply_chat_template(each)["pixel_values"] for each in asked])
    assert expected.dtype == torch.float32
    assert torch.equal(read_pixels(batch["pixel_values"], batch["pixel_table"], torch.float32), expected)
    assert 4 * batch["pixel_values"].nbytes == expected.nbytes
    assert batch["pixel_table"].nbytes == 3072
