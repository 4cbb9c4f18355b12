"""What decides a model's function is told from what does not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from minicpmv.models.adapters.function_digest import digest_function
from minicpmv.models.configuration import MiniCPMVConfig
from minicpmv.processing.processor import MiniCPMVProcessor
from tests.tiny import FIXTURES


def _digest(folder: Path) -> str:
    return digest_function(folder, MiniCPMVConfig.from_pretrained(folder))


@pytest.mark.parametrize("model", ["v2", "v2_5", "v2_6", "v4", "v4_5"])
def test_model_that_is_saved_again_is_the_same(model: str, tmp_path: Path) -> None:
    base = shutil.copytree(FIXTURES / model, tmp_path / "base")
    before = _digest(base)
    file = base / "config.json"
    written = {
        "transformers_version": "9.9",
        "_name_or_path": "/elsewhere",
        "torch_dtype": "float16",
        "use_cache": False,
    }
    file.write_text(json.dumps(json.loads(file.read_text()) | written))
    assert _digest(base) == before
    MiniCPMVConfig.from_pretrained(base).save_pretrained(tmp_path / "again")
    MiniCPMVProcessor.from_pretrained(base).save_pretrained(tmp_path / "again")
    assert _digest(tmp_path / "again") == before


@pytest.mark.parametrize("model", ["v2", "v2_6", "v4"])
@pytest.mark.parametrize(
    "change",
    [{"rope_theta": 5e5}, {"rms_norm_eps": 1e-3}, {"hidden_act": "gelu"}, {"max_slice_nums": 7}, {"slice_mode": False}],
)
def test_each_setting_that_counts_makes_another_model(model: str, change: dict[str, Any], tmp_path: Path) -> None:
    base = shutil.copytree(FIXTURES / model, tmp_path / "base")
    before = _digest(base)
    of_images = "max_slice_nums" in change or "slice_mode" in change
    file = base / ("preprocessor_config.json" if of_images and model != "v2" else "config.json")
    fields = json.loads(file.read_text())
    if model == "v2" and "max_slice_nums" in change:
        assert "slice_config" not in fields
    file.write_text(json.dumps(fields | change))
    assert _digest(base) != before
