"""What `build_demo` unpacks, and the shape that the shipped base promises."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoProcessor

import minicpmv  # noqa: F401 - registers the model with transformers
from minicpmv.data.sources.loading import load_records
from minicpmv.demo.build import DemoPaths, build_demo
from minicpmv.demo.sheets import ASSETS
from minicpmv.errors import UsageError


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> DemoPaths:
    return build_demo(tmp_path_factory.mktemp("demo"))


def test_every_record_loads_with_its_picture(demo: DemoPaths) -> None:
    assert len(load_records(demo.train)) == 3 * 1197
    assert len(load_records(demo.validation)) == 240
    assert len(load_records(demo.heldout)) == 360


def test_building_again_changes_nothing(demo: DemoPaths) -> None:
    before = {path: path.read_bytes() for path in demo.model.parent.rglob("*.json")}
    assert build_demo(demo.model.parent) == demo
    assert {path: path.read_bytes() for path in demo.model.parent.rglob("*.json")} == before


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    target = tmp_path / "taken"
    target.write_text("x")
    with pytest.raises(UsageError, match="taken"):
        build_demo(target)


def test_building_needs_neither_torch_nor_transformers() -> None:
    code = "import sys, minicpmv.demo.build; print({'torch', 'transformers'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


def test_base_has_the_shape_that_engines_ask_for() -> None:
    config = json.loads((ASSETS / "base" / "config.json").read_text())
    assert (config["version"], config["model_type"]) == (2.6, "minicpmv")
    assert config["hidden_size"] % 128 == 0
    assert config["vision_config"]["hidden_size"] != config["hidden_size"]
    with safe_open(ASSETS / "base" / "model.safetensors", framework="pt") as weights:
        assert weights.get_slice("vpm.embeddings.position_embedding.weight").get_shape()[0] == 70 * 70
        assert weights.get_slice("resampler.kv_proj.weight").get_shape() == [128, 96]
        assert {weights.get_slice(name).get_dtype() for name in weights.keys()} == {"BF16"}  # noqa: SIM118 - no dict


def test_base_loads_whole_and_talks(demo: DemoPaths) -> None:
    loaded: Any = AutoModelForCausalLM.from_pretrained(demo.model, dtype=torch.float32, output_loading_info=True)
    model, report = loaded
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    processor = AutoProcessor.from_pretrained(demo.model)
    messages = [{"role": "user", "content": [{"type": "text", "text": "Who are you?"}]}]
    inputs = processor.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
    )
    answer = model.generate(**inputs, max_new_tokens=40, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert processor.decode(answer, skip_special_tokens=True).startswith("I am a small demo model.")


def test_shipped_files_are_small() -> None:
    assert (ASSETS / "base" / "model.safetensors").stat().st_size < 5_000_000
    assert sum(path.stat().st_size for path in ASSETS.rglob("*") if path.is_file()) < 6_000_000


def test_file_of_a_user_is_named_and_kept(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text("mine", encoding="utf-8")
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(UsageError, match=r"found 'train.json', not as the demo would write it"):
        build_demo(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", "train.json"]
    assert (tmp_path / "train.json").read_text(encoding="utf-8") == "mine"
    (tmp_path / "train.json").unlink()
    build_demo(tmp_path)
    assert (tmp_path / "notes.txt").read_text(encoding="utf-8") == "mine"
