"""Loading refuses a checkpoint that does not fit, and names all that is wrong with it."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText

from minicpmv.errors import CheckpointError
from minicpmv.models.modeling import MiniCPMVForConditionalGeneration
from tests.parity.cases import FIXTURES, VERSIONS
from tests.run.prepared import prepared_python

Weights = dict[str, Tensor]


def copied(version: str, folder: Path, edit: Callable[[Weights], None] = lambda weights: None) -> Path:
    """A fixture's directory with other weights."""
    weights = load_file(FIXTURES / version / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    shutil.copy(FIXTURES / version / "config.json", folder)
    return folder


def spoil(weights: Weights) -> None:
    """One of each fault: a key missing, one too many, and one of another shape, in the tower."""
    del weights["resampler.query"]
    weights["resampler.extra"] = torch.zeros(3, 4)
    name = "vpm.blocks.0.attn.qkv.bias" if "vpm.pos_embed" in weights else "vpm.encoder.layers.0.mlp.fc1.bias"
    weights[name] = torch.zeros(9)


@pytest.mark.parametrize("auto_class", [AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText])
def test_every_fault_is_named_with_what_was_found_and_expected(auto_class, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        auto_class.from_pretrained(copied("v2_6", tmp_path, spoil))
    assert str(caught.value) == (
        f"{tmp_path}: found weights that do not fit config.json (1 missing, 1 unexpected, 1 misshapen), "
        "expected each of the model's exactly once and no others\n"
        "  missing:\n    resampler.query [4, 128]\n"
        "  unexpected:\n    resampler.extra [3, 4]\n"
        "  misshapen:\n    vpm.encoder.layers.0.mlp.fc1.bias: found [9], expected [96]\n"
        "  fix: use the config.json that was saved with these weights"
    )


def test_faults_bear_the_names_of_the_file(tmp_path: Path) -> None:
    """2.0's fused matrix is one tensor there, and three in the model."""
    with pytest.raises(CheckpointError, match=r"vpm\.blocks\.0\.attn\.qkv\.bias: found \[9\], expected \[144\]"):
        AutoModel.from_pretrained(copied("v2", tmp_path, spoil))


def test_nothing_is_loaded_and_transformers_reports_nothing_before_the_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    initialised = []
    monkeypatch.setattr(MiniCPMVForConditionalGeneration, "_init_weights", lambda self, module: initialised.append(1))
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    with pytest.raises(CheckpointError):
        AutoModel.from_pretrained(copied("v2_6", tmp_path, spoil))
    assert (initialised, caplog.text) == ([], "")


def test_long_lists_are_cut_and_counted(tmp_path: Path) -> None:
    def without_tower(weights: Weights) -> None:
        for name in [name for name in weights if name.startswith("vpm.")]:
            del weights[name]

    with pytest.raises(CheckpointError, match=r"\(37 missing\)(?s:.*)\.\.\. and 32 more\n  fix: download or copy"):
        AutoModel.from_pretrained(copied("v2_6", tmp_path, without_tower))


def test_an_adapter_s_weights_in_place_of_a_model_s_are_recognised(tmp_path: Path) -> None:
    def as_adapter(weights: Weights) -> None:
        weights["base_model.model.llm.model.layers.0.self_attn.q_proj.lora_A.weight"] = torch.zeros(2, 128)

    with pytest.raises(CheckpointError, match="fix: load the base model, and these weights as an adapter"):
        AutoModel.from_pretrained(copied("v2_6", tmp_path, as_adapter))


def test_rotary_constants_that_old_transformers_saved_are_no_fault(tmp_path: Path) -> None:
    def with_constants(weights: Weights) -> None:
        weights["llm.model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(8)

    assert AutoModel.from_pretrained(copied("v2_6", tmp_path, with_constants))


def test_another_shape_is_taken_where_the_caller_asks_for_it(tmp_path: Path) -> None:
    def smaller_head(weights: Weights) -> None:
        weights["llm.lm_head.weight"] = torch.zeros(7, 128)

    folder = copied("v2_6", tmp_path, smaller_head)
    with pytest.raises(CheckpointError, match=r"\(1 misshapen\)"):
        AutoModel.from_pretrained(folder)
    loaded: Any = MiniCPMVForConditionalGeneration.from_pretrained(
        folder, ignore_mismatched_sizes=True, output_loading_info=True
    )
    model, report = loaded
    assert model.llm.lm_head.weight.shape == (424, 128)
    assert [key for key, _, _ in report["mismatched_keys"]] == ["llm.lm_head.weight"]

    spoil(weights := load_file(folder / "model.safetensors"))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"\(1 missing, 1 unexpected\)"):
        AutoModel.from_pretrained(folder, ignore_mismatched_sizes=True)


@pytest.mark.parametrize("version", ["v2", "v4_5"])
@pytest.mark.parametrize("layout", ["released", "ours"])
def test_weights_given_as_a_state_dict_are_checked_too(version: str, layout: str) -> None:
    model = MiniCPMVForConditionalGeneration.from_pretrained(FIXTURES / version)
    given = load_file(FIXTURES / version / "model.safetensors") if layout == "released" else model.state_dict()
    load = MiniCPMVForConditionalGeneration.from_pretrained
    again = load(None, config=model.config, state_dict=dict(given))
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
    with pytest.raises(CheckpointError, match=r"^state_dict: found .*\n  missing:\n    resampler\.query \["):
        load(None, config=model.config, state_dict={key: x for key, x in given.items() if key != "resampler.query"})


def test_the_caller_s_own_names_are_mapped_before_they_are_judged(tmp_path: Path) -> None:
    def renamed(weights: Weights) -> None:
        for name in [name for name in weights if name.startswith("llm.")]:
            weights[name.replace("llm.", "language.", 1)] = weights.pop(name)

    folder = copied("v2_6", tmp_path, renamed)
    load = MiniCPMVForConditionalGeneration.from_pretrained
    model = load(folder, key_mapping={r"^language\.": "llm."})
    original = load(FIXTURES / "v2_6")
    assert torch.equal(model.llm.lm_head.weight, original.llm.lm_head.weight)
    with pytest.raises(CheckpointError, match=r"\(27 missing, 27 unexpected\)"):
        load(folder)
    spoil(weights := load_file(folder / "model.safetensors"))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"\(1 missing, 1 unexpected, 1 misshapen\)"):
        load(folder, key_mapping={r"^language\.": "llm."})


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")  # PEFT 0.21 asks by the old name
def test_an_adapter_s_directory_loads_its_base_and_the_adapter(tmp_path: Path) -> None:
    """transformers' way, beside PEFT's own: from_pretrained on the adapter."""
    base = MiniCPMVForConditionalGeneration.from_pretrained(FIXTURES / "v2_6")
    get_peft_model(base, LoraConfig(target_modules=r"llm\..*q_proj")).save_pretrained(str(tmp_path))
    loaded = MiniCPMVForConditionalGeneration.from_pretrained(tmp_path)
    assert [name for name in loaded.state_dict() if "layers.0.self_attn.q_proj.lora_A" in name]


# --------------------------------------------------------------------------------------------------------- broken files


def saved_in_shards(folder: Path) -> list[Path]:
    model = MiniCPMVForConditionalGeneration.from_pretrained(FIXTURES / "v2_6")
    model.save_pretrained(folder, max_shard_size="300KB")
    return sorted(folder.glob("*-of-*.safetensors"))


def test_shards_that_the_index_names_and_nobody_has_are_named(tmp_path: Path) -> None:
    _, second, _, fourth, *_ = shards = saved_in_shards(tmp_path)
    second.unlink()
    fourth.unlink()
    with pytest.raises(CheckpointError) as caught:
        AutoModel.from_pretrained(tmp_path)
    assert str(caught.value).startswith(
        f"{tmp_path}: found {len(shards) - 2} of {len(shards)} weight files, expected also {second.name}, {fourth.name}"
    )


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda whole: whole[:-100], "found 860124 bytes that cannot be read .*not fully covered"),
        (lambda whole: whole[:4], "found 4 bytes that cannot be read .*too small"),
        (lambda whole: b"\xff" * 8 + whole[8:], "found 860224 bytes that cannot be read .*too large"),
        (lambda whole: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "fix: run `git lfs pull`"),
    ],
)
@pytest.mark.parametrize("stated", ["with torch_dtype", "without"])
def test_a_broken_file_is_named_with_its_size(damage, message: str, stated: str, tmp_path: Path) -> None:
    """Without torch_dtype transformers opens the file earlier, to see its precision."""
    file = copied("v2_6", tmp_path) / "model.safetensors"
    file.write_bytes(damage((FIXTURES / "v2_6" / "model.safetensors").read_bytes()))
    if stated == "without":
        config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
        del config["torch_dtype"]
        (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(CheckpointError, match=rf"^{file}: (?s:.*){message}"):
        AutoModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '{"weight_map": {}}'])
def test_a_broken_index_is_named(text: str, tmp_path: Path) -> None:
    saved_in_shards(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError, match=rf"^{index}: found no .*expected the index of the weight files\n  fix:"):
        AutoModel.from_pretrained(tmp_path)


def test_a_directory_without_weights_is_named(tmp_path: Path) -> None:
    (copied("v2_6", tmp_path) / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=rf"^{tmp_path}: found no weights, expected model\.safetensors"):
        AutoModel.from_pretrained(tmp_path)


def test_files_of_torch_save_are_read_and_checked(tmp_path: Path) -> None:
    weights = load_file(copied("v2_6", tmp_path) / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    file = tmp_path / "pytorch_model.bin"
    torch.save(weights, file)
    assert AutoModel.from_pretrained(tmp_path)
    spoil(weights)
    torch.save(weights, file)
    with pytest.raises(CheckpointError, match=r"\(1 missing, 1 unexpected, 1 misshapen\)"):
        AutoModel.from_pretrained(tmp_path)
    file.write_bytes(file.read_bytes()[:-5000])
    with pytest.raises(CheckpointError, match=rf"^{file}: found \d+ bytes that cannot be read"):
        AutoModel.from_pretrained(tmp_path)


# -------------------------------------------------------------------------------------------------------------- engines

ZERO_3 = """
import sys
import deepspeed
import deepspeed.ops
from transformers.integrations import HfDeepSpeedConfig
from minicpmv.errors import CheckpointError
from minicpmv.models.modeling import MiniCPMVForConditionalGeneration

deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # or it is compiled first
deepspeed.init_distributed(dist_backend="gloo", verbose=False)
stage_3 = HfDeepSpeedConfig({"zero_optimization": {"stage": 3}, "train_micro_batch_size_per_gpu": 1})
for folder in sys.argv[1:]:
    for wish in (False, True):
        try:
            model = MiniCPMVForConditionalGeneration.from_pretrained(folder, ignore_mismatched_sizes=wish)
            print("answer: loaded in parts" if hasattr(model.resampler.query, "ds_shape") else "answer: loaded whole")
        except CheckpointError as error:
            print("answer:", str(error).partition("(")[2].partition(")")[0])
"""


def test_zero_3_refuses_the_same_although_its_own_loading_would_not(tmp_path: Path) -> None:
    """DeepSpeed's loading reports no unexpected keys, and other shapes to the first process alone."""
    places = [FIXTURES / "v2"]
    for version in ("v2", "v2_6"):
        (tmp_path / version).mkdir()
        places.append(copied(version, tmp_path / version, spoil))
    group = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    done = subprocess.run(
        [prepared_python(), "-c", ZERO_3, *map(str, places)],
        env=os.environ | group | {"DS_ACCELERATOR": "cpu"},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    answers = [line.removeprefix("answer: ") for line in done.stdout.splitlines() if line.startswith("answer: ")]
    assert answers == ["loaded in parts"] * 2 + ["1 missing, 1 unexpected, 1 misshapen"] * 4


@pytest.mark.parametrize("version", VERSIONS)
def test_the_account_of_the_loading_is_there_for_who_asks(version: str) -> None:
    loaded: Any = AutoModel.from_pretrained(FIXTURES / version, output_loading_info=True)
    model, report = loaded
    assert type(model) is MiniCPMVForConditionalGeneration
    assert {name: list(found) for name, found in report.items() if found} == {}
