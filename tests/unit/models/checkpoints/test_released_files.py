"""Released directories in, released directories out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText

from minicpmv.errors import CheckpointError
from minicpmv.models.configuration import MiniCPMVConfig
from minicpmv.models.modeling import MiniCPMVForConditionalGeneration
from minicpmv.releases.table import LLM_TYPES, VERSIONS, detect_version
from tests.parity.cases import FIXTURES
from tests.parity.cases import VERSIONS as STORED


@pytest.mark.parametrize("auto_class", [AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText])
@pytest.mark.parametrize("trust_remote_code", [None, False, True])
@pytest.mark.parametrize("version", STORED)
def test_auto_classes_load_our_model_and_never_the_directory_s_code(auto_class, trust_remote_code, version) -> None:
    """The fixtures' auto_map names files that do not exist: touching them would fail."""
    model = auto_class.from_pretrained(FIXTURES / version, trust_remote_code=trust_remote_code)
    assert type(model) is MiniCPMVForConditionalGeneration


def saved_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of a directory, one file or many."""
    return {
        key: tensor for file in sorted(folder.glob("model*.safetensors")) for key, tensor in load_file(file).items()
    }


@pytest.mark.parametrize("version", STORED)
@pytest.mark.parametrize("way", ["whole", "in shards", "with a state dict, as Trainer and DeepSpeed save"])
def test_saving_writes_the_released_keys_shapes_dtypes_and_bits(version: str, way: str, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(FIXTURES / version)
    options: dict[str, Any] = {"max_shard_size": "200KB"} if way == "in shards" else {}
    if way.startswith("with"):
        options["state_dict"] = model.state_dict()
    model.save_pretrained(tmp_path, **options)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    again.save_pretrained(tmp_path / "again", **options)
    released = load_file(FIXTURES / version / "model.safetensors")
    assert (tmp_path / "model.safetensors.index.json").is_file() is (way == "in shards")
    for saved in (saved_weights(tmp_path), saved_weights(tmp_path / "again")):
        assert saved.keys() == released.keys()
        for key, tensor in released.items():
            assert saved[key].dtype == tensor.dtype, key
            assert torch.equal(saved[key], tensor), key


@pytest.mark.parametrize("version", STORED)
def test_generation_settings_are_saved_as_released(version: str, tmp_path: Path) -> None:
    """4.5's chat_template_kwargs mean nothing to generate, which must neither mind nor lose them.

    End tokens that the released file lacks are added, so that generate ends where chat does.
    """
    model: Any = AutoModelForCausalLM.from_pretrained(FIXTURES / version)
    model.generate(input_ids=torch.tensor([[5, 6, 7]]), attention_mask=torch.ones(1, 3).long(), max_new_tokens=2)
    model.save_pretrained(tmp_path)
    released, saved = (
        json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
        for folder in (FIXTURES / version, tmp_path)
    )
    del released["transformers_version"], saved["transformers_version"]  # of who wrote it
    before, after = (np.atleast_1d(settings.pop("eos_token_id")).tolist() for settings in (released, saved))
    assert set(before) <= set(after)
    assert saved == released


@pytest.mark.parametrize("version", STORED)
def test_saved_config_has_exactly_the_released_fields(version: str, tmp_path: Path) -> None:
    """Also after the model's own save_pretrained, which would like to write another class name and dtype."""
    MiniCPMVForConditionalGeneration.from_pretrained(FIXTURES / version, dtype="auto").save_pretrained(tmp_path)
    released = json.loads((FIXTURES / version / "config.json").read_text(encoding="utf-8"))
    assert json.loads((tmp_path / "config.json").read_text(encoding="utf-8")) == released


def test_changed_fields_are_saved_and_a_quantization_config_is_kept(tmp_path: Path) -> None:
    config = AutoConfig.from_pretrained(FIXTURES / "v2_6")
    config.slice_mode = False
    config.quantization_config = {"quant_method": "bitsandbytes"}
    config.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert saved["slice_mode"] is False
    assert saved["quantization_config"] == {"quant_method": "bitsandbytes"}


def test_resized_vocabulary_is_saved(tmp_path: Path) -> None:
    model = MiniCPMVForConditionalGeneration.from_pretrained(FIXTURES / "v2_6")
    model.resize_token_embeddings(430, mean_resizing=False)
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))["vocab_size"] == 430
    again = MiniCPMVForConditionalGeneration.from_pretrained(tmp_path)
    assert again.llm.lm_head.weight.shape[0] == 430


def test_query_positions_of_2_0_are_saved_but_never_trained() -> None:
    model = MiniCPMVForConditionalGeneration.from_pretrained(FIXTURES / "v2")
    assert "resampler.pos_embed" in model.state_dict()
    assert "resampler.pos_embed" not in dict(model.named_parameters())


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"scale_emb": 12}, "2.0"),
        ({"vision_encoder": "vit_so400m_patch14_siglip_384.webli"}, "2.0"),
        ({"version": "2.5"}, "2.5"),
        ({"version": 2.6}, "2.6"),
        ({"version": 4}, "4.0"),
        ({"version": "4.0"}, "4.0"),
        ({"version": 4.5}, "4.5"),
    ],
)
def test_version_is_told_from_what_the_config_states(config: dict, name: str) -> None:
    assert detect_version(config) is VERSIONS[name]


@pytest.mark.parametrize("config", [{"version": 9.9}, {"hidden_size": 64}])
def test_unknown_version_says_what_was_found_and_expected(config: dict) -> None:
    with pytest.raises(CheckpointError, match=r"found (version 9\.9|no 'version').*\n?.*fix:"):
        detect_version(config)


def test_missing_sizes_are_named() -> None:
    with pytest.raises(CheckpointError, match="found no hidden_size"):
        MiniCPMVConfig(version=2.6, vision_config={"hidden_size": 48})
    with pytest.raises(CheckpointError, match="found no vision_config"):
        MiniCPMVConfig(version=2.6, hidden_size=128, num_hidden_layers=1, num_attention_heads=1)


def test_llm_types_hold_the_names_of_the_official_scripts() -> None:
    assert {"minicpm", "llama3", "qwen"} <= set(LLM_TYPES)
