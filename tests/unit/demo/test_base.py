"""The base's start and the way to the shipped files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from minicpmv.demo.base import write_untrained
from minicpmv.demo.pretrain import remake_base, ship


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("start")
    write_untrained(folder, seed=0)
    return folder


@pytest.mark.long
def test_start_is_the_same_every_time(start: Path, tmp_path: Path) -> None:
    write_untrained(tmp_path, seed=0)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {
        file.name: file.read_bytes() for file in start.iterdir()
    }


def test_config_is_in_the_released_layout(start: Path) -> None:
    config = json.loads((start / "config.json").read_text())
    assert config["architectures"] == ["MiniCPMV"]
    assert config["torch_dtype"] == "float32"
    assert "text_config" not in config


def test_shipping_halves_the_weights_and_says_so(start: Path, tmp_path: Path) -> None:
    ship(start, start, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["torch_dtype"] == "bfloat16"
    before, after = load_file(start / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor.to(torch.bfloat16), rtol=0, atol=0)


@pytest.mark.slow
def test_the_remake_command_runs_to_its_end(tmp_path: Path) -> None:
    remake_base(tmp_path / "work", output=tmp_path / "base", num_records=64)
    assert (tmp_path / "base" / "model.safetensors").stat().st_size > 3_000_000
