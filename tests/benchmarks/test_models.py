"""Models of released sizes: what is measured is what was released, whichever release is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.models import build_random, write_small_files
from benchmarks.records import make_records
from minicpmv.data.samples.dataset import ConversationDataset
from minicpmv.data.sources.loading import load_records
from minicpmv.processing.processor import MiniCPMVProcessor
from tests.released_sizes import RELEASED
from tests.unit.models.networks.test_released_sizes import TOTALS

_FIXTURES = {"2.0": "v2", "2.5": "v2_5", "2.6": "v2_6", "4.5": "v4_5"}


@pytest.mark.parametrize("release", RELEASED)
def test_small_files_make_the_released_model_and_cut_images_as_it_does(release: str, tmp_path: Path) -> None:
    write_small_files(tmp_path / "model", _FIXTURES[release], RELEASED[release])
    model = build_random(tmp_path / "model", dtype=torch.bfloat16, device="meta")
    assert sum(each.numel() for each in model.state_dict().values()) == TOTALS[release]
    assert {each.dtype for each in model.parameters()} == {torch.bfloat16}

    records = load_records(make_records(tmp_path / "data", 2, slices=(5, 10), words=(10, 20)))
    dataset = ConversationDataset(records, MiniCPMVProcessor.from_pretrained(tmp_path / "model"), max_length=4096)
    image_tokens = sum(int(sample["image_mask"].sum()) for sample in dataset)
    assert image_tokens == (5 + 10) * RELEASED[release]["query_num"]
