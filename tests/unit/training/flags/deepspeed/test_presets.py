from __future__ import annotations

import json
from pathlib import Path

import pytest

from minicpmv.errors import ConfigError
from minicpmv.training.flags.deepspeed.presets import PRESETS, offloads_optimizer, resolve_deepspeed

_GATHERS = "stage3_gather_16bit_weights_on_model_save"
_PRECISIONS = {"bf16": {"enabled": "auto"}, "fp16": {"enabled": "auto"}}


@pytest.mark.parametrize("name", PRESETS)
def test_preset_compiles_nothing_on_a_cpu(name: str) -> None:
    config, notices = resolve_deepspeed(name, on_cpu=True)
    assert config["zero_optimization"]["stage"] == int(name[4])
    assert config["zero_force_ds_cpu_optimizer"] is False
    assert not {"optimizer", "scheduler"} & config.keys(), "they would be compiled"
    assert notices == ()


@pytest.mark.parametrize("name", PRESETS)
def test_offload_takes_deepspeeds_own_optimizer_beside_a_gpu(name: str) -> None:
    config, _ = resolve_deepspeed(name, on_cpu=False)
    assert offloads_optimizer(config) is name.endswith("offload")
    assert config.get("zero_force_ds_cpu_optimizer", True) is name.endswith("offload")
    assert ("offload_param" in config["zero_optimization"]) is (name == "zero3-offload")


@pytest.mark.parametrize("name", ["zero3", "zero3-offload"])
def test_zero3_saves_whole_weights(name: str) -> None:
    config, _ = resolve_deepspeed(name, on_cpu=False)
    assert config["zero_optimization"][_GATHERS] is True


def test_existing_file_wins(tmp_path: Path) -> None:
    path = tmp_path / "ds_config_zero2.json"
    path.write_text(json.dumps({"zero_optimization": {"stage": 1}}))
    config, notices = resolve_deepspeed(str(path), on_cpu=False)
    assert config == {"zero_optimization": {"stage": 1}, **_PRECISIONS}
    assert notices == ()


@pytest.mark.parametrize("stage", [2, 3])
def test_configuration_without_precisions_takes_those_of_the_flags(stage: int) -> None:
    written = {"zero_optimization": {"stage": stage}, "fp16": {"enabled": "auto", "initial_scale_power": 8}}
    config, notices = resolve_deepspeed(json.dumps(written), on_cpu=False)
    assert config["bf16"] == {"enabled": "auto"}
    assert config["fp16"] == written["fp16"], "what is there stays"
    assert notices == ()
    autocast = {"zero_optimization": {"stage": stage}, "torch_autocast": {"enabled": True}}
    assert not _PRECISIONS.keys() & resolve_deepspeed(json.dumps(autocast), on_cpu=False).config.keys()


def test_own_zero3_configuration_saves_whole_weights_too() -> None:
    config, notices = resolve_deepspeed('{"zero_optimization": {"stage": 3}}', on_cpu=False)
    assert config["zero_optimization"] == {"stage": 3, _GATHERS: True}
    assert notices == ()
    refused = {"zero_optimization": {"stage": 3, _GATHERS: False}}
    config, notices = resolve_deepspeed(json.dumps(refused), on_cpu=False)
    assert config["zero_optimization"][_GATHERS] is True
    assert notices == (f"--deepspeed: {_GATHERS} is false; true is used, or the model could not be saved",)


def test_blocks_that_compile_are_replaced_on_a_cpu(tmp_path: Path) -> None:
    path = tmp_path / "ds.json"
    path.write_text(json.dumps({"optimizer": {"type": "AdamW"}, "scheduler": {"type": "WarmupLR"}}))
    config, notices = resolve_deepspeed(str(path), on_cpu=True)
    assert config == {"zero_force_ds_cpu_optimizer": False, **_PRECISIONS}
    assert len(notices) == 2
    assert resolve_deepspeed(str(path), on_cpu=False).config.keys() == {"optimizer", "scheduler", *_PRECISIONS}


@pytest.mark.parametrize("name", ["zero4", "nowhere/ds.json"])
def test_unknown_name_lists_the_presets(name: str) -> None:
    with pytest.raises(ConfigError, match=", ".join(PRESETS)):
        resolve_deepspeed(name, on_cpu=True)


def test_broken_file_names_the_place(tmp_path: Path) -> None:
    path = tmp_path / "ds.json"
    path.write_text("{\n  'stage': 2}")
    with pytest.raises(ConfigError, match=r"ds\.json: found invalid JSON at line 2 column 3"):
        resolve_deepspeed(str(path), on_cpu=True)
