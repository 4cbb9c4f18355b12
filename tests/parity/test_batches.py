"""Batches made from a data file against those of the released fine-tuning code.

Only cases in which the released training and the released ``chat()`` agree, because we follow ``chat()``: not V-2,
whose training cuts the text at other places, not two images in one turn, which its training surrounds with other
newlines, and from 2.6 on no image without tiles, which its training does not number.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from minicpmv.data.samples.collation import Collator
from minicpmv.data.samples.dataset import ConversationDataset
from minicpmv.data.sources.loading import load_records
from minicpmv.models.networks.pixels import read_pixels
from minicpmv.processing.processor import MiniCPMVProcessor
from tests.tiny import FIXTURES, write_data


@pytest.mark.parametrize(
    ("name", "case"),
    [
        ("v2_5", "sliced_multi_turn"),
        ("v2_5", "unsliced"),
        ("v2_5", "two_samples_padded"),
        ("v2_5", "text_only"),
        ("v2_5", "mixed_image_text"),
        ("v2_6", "sliced_multi_turn"),
        ("v2_6", "text_only"),
        ("v2_6", "mixed_image_text"),
        ("v4", "sliced_multi_turn"),
        ("v4", "text_only"),
        ("v4", "mixed_image_text"),
        ("v4_5", "sliced_multi_turn"),
        ("v4_5", "text_only"),
        ("v4_5", "mixed_image_text"),
    ],
)
def test_batch_equals_the_released_one(name: str, case: str, tmp_path: Path) -> None:
    folder = FIXTURES / name
    cases = {entry["name"]: entry for entry in json.loads((folder / "cases.json").read_text())["cases"]}
    expected = {
        key.removeprefix(f"{case}/"): value
        for key, value in load_file(folder / "cases.safetensors").items()
        if key.startswith(f"{case}/")
    }
    records = load_records(write_data(tmp_path / "train.json", cases[case]["samples"]), image_root=folder)
    dataset = ConversationDataset(records, MiniCPMVProcessor.from_pretrained(folder), max_length=512)
    batch = Collator(pad_token_id=0).join(list(dataset))
    assert batch["input_ids"].tolist() == expected["input_ids"].tolist()
    assert batch["labels"].tolist() == expected["labels_clean"].tolist()
    assert batch["attention_mask"].bool().tolist() == expected["attention_mask"].tolist()
    assert ("pixel_values" in batch) == (sum(cases[case]["n_slices"]) > 0)
    if "pixel_values" in batch:
        bounds = [expected.get(f"image_bound.{row}", torch.empty(0, 2)).tolist() for row in range(len(records))]
        mask = torch.zeros_like(batch["image_mask"])
        for row, spans in enumerate(bounds):
            for start, stop in spans:
                mask[row, int(start) : int(stop)] = True
        assert torch.equal(batch["image_mask"], mask)
        slices = [expected[key] for key in sorted(expected, key=_place) if key.startswith("pixel_values_u8.")]
        values = read_pixels(batch["pixel_values"], batch["pixel_table"], torch.float32)
        torch.testing.assert_close(values, torch.cat([_rows(pixels) for pixels in slices]), rtol=0, atol=0)
        sizes = [expected[key] for key in sorted(expected, key=_place) if key.startswith("tgt_sizes.")]
        assert torch.equal(batch["tgt_sizes"], torch.cat(sizes).long())


def _place(key: str) -> list[int]:
    return [int(part) for part in key.split(".")[1:] if part.isdigit()]


def _rows(pixels_u8: torch.Tensor) -> torch.Tensor:
    """[3, 14, patches * 14] bytes to [patches, 588] values."""
    values = (pixels_u8.float() / 255 - 0.5) / 0.5
    return values.reshape(3, 14, -1, 14).permute(2, 0, 1, 3).reshape(-1, 588)
