from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from minicpmv.errors import CheckpointError
from minicpmv.releases.model_files import check_config, check_model_files
from tests.parity.cases import FIXTURES

Change = Callable[[dict[str, Any]], object]


def config(model: str = "v4_6") -> dict[str, Any]:
    return json.loads((FIXTURES / model / "config.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("model", ["v4_6", "v4_7"])
def test_released_files_pass(model: str) -> None:
    check_config(config(model))
    check_model_files(FIXTURES / model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(downsample_mode="8x"), r"downsample_mode: found '8x', expected one of 16x, 4x"),
        (lambda c: c.pop("vision_config"), r"found no vision_config"),
        (lambda c: c["text_config"].pop("hidden_size"), r"text_config\.hidden_size"),
        (lambda c: c["text_config"].update(num_key_value_heads=3), r"text_config\.num_key_value_heads: found 3"),
        (lambda c: c["text_config"].update(linear_num_key_heads=3), r"text_config\.linear_num_key_heads: found 3"),
        (lambda c: c["text_config"].update(layer_types=["full_attention"]), r"text_config\.layer_types"),
        (lambda c: c["text_config"].update(layer_types=["mamba"] * 4), r"layer_types"),
        (lambda c: c["text_config"]["rope_parameters"].update(mrope_section=[3, 3, 3]), r"mrope_section: found \[3, 3"),
        (lambda c: c.update(image_token_id=400), r"image_token_id: found 400, expected an id below vocab_size 400"),
        (lambda c: c.update(merge_kernel_size=[3, 3]), r"merge_kernel_size"),
        (lambda c: c.update(insert_layer_id=3), r"insert_layer_id: found 3"),
        (lambda c: c["vision_config"].update(num_attention_heads=3), r"vision_config\.num_attention_heads: found 3"),
        (lambda c: c["text_config"].update(attn_implementation="kernels/evil"), r"attn_implementation"),
        (lambda c: c["text_config"].update(model_type="gpt2"), r"model_type"),
    ],
)
def test_what_cannot_be_is_refused_by_its_key(change: Change, message: str) -> None:
    changed = copy.deepcopy(config())
    change(changed)
    with pytest.raises(CheckpointError, match=message):
        check_config(changed)


def copy_with(tmp_path: Path, **fields: object) -> Path:
    """Copy the small files, with other fields in ``preprocessor_config.json``."""
    folder = tmp_path / "model"
    ignored = shutil.ignore_patterns("*.safetensors", "images", "cases*", "prompts*", "grids*", "packed*")
    shutil.copytree(FIXTURES / "v4_6", folder, ignore=ignored)
    file = folder / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields), encoding="utf-8")
    return folder


def test_two_modes_in_one_directory_are_refused_naming_both_files(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"found '16x' in config\.json and '4x' in preprocessor_config\.json"):
        check_model_files(copy_with(tmp_path, downsample_mode="4x"))


@pytest.mark.parametrize("fields", [{"do_rescale": False}, {"rescale_factor": 1.0}, {"image_mean": [0.5]}])
def test_pixels_that_would_be_made_otherwise_are_refused(tmp_path: Path, fields: dict[str, object]) -> None:
    with pytest.raises(CheckpointError, match=f"preprocessor_config.json: {next(iter(fields))}"):
        check_model_files(copy_with(tmp_path, **fields))
