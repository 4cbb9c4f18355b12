"""The flat config.json: every language model's fields reach the model, and come back as they were given."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, LlamaConfig, LlamaForCausalLM

from minicpmv.errors import ConfigError
from minicpmv.models.configuration import MiniCPMVConfig
from minicpmv.models.modeling import MiniCPMVForConditionalGeneration
from tests.parity.cases import FIXTURES, VERSIONS

LONG = {
    "long_factor": [2.0] * 8,
    "short_factor": [1.0] * 8,
    "original_max_position_embeddings": 16,
}
ROPES: dict[str, dict[str, Any] | None] = {
    "none": None,
    "longrope": {"rope_type": "longrope", **LONG},
    "longrope with factor": {"rope_type": "longrope", "factor": 1.0, **LONG},
    "longrope, older spelling": {"type": "longrope", **LONG},
    "linear": {"rope_type": "linear", "factor": 2.0},
}


def stated(version: str, **changes: Any) -> dict[str, Any]:
    return json.loads((FIXTURES / version / "config.json").read_text(encoding="utf-8")) | changes


def built(fields: dict[str, Any]) -> MiniCPMVForConditionalGeneration:
    torch.manual_seed(0)
    return MiniCPMVForConditionalGeneration(MiniCPMVConfig(**fields)).eval()


def logits(model: Any, length: int) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.arange(length)[None] + 5).logits


@pytest.mark.parametrize("rope", ROPES)
@pytest.mark.parametrize("tied", [False, True])
def test_scaled_positions_and_tied_embeddings_survive_saving(rope: str, tied: bool, tmp_path: Path) -> None:
    """MiniCPM4 models, 4.0's among them, scale their positions; which releases tie their embeddings differs."""
    given = stated("v4", rope_scaling=copy.deepcopy(ROPES[rope]), tie_word_embeddings=tied, torch_dtype="float32")
    model = built(given)
    model.save_pretrained(tmp_path)
    assert given["rope_scaling"] == ROPES[rope]
    assert json.loads((tmp_path / "config.json").read_text(encoding="utf-8")) == given
    assert ("llm.lm_head.weight" in load_file(tmp_path / "model.safetensors")) is not tied

    again = AutoModel.from_pretrained(tmp_path)
    assert (again.llm.lm_head.weight is again.llm.model.embed_tokens.weight) is tied
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(logits(again, 30), logits(model, 30))

    again.save_pretrained(tmp_path / "again")
    first, second = load_file(tmp_path / "model.safetensors"), load_file(tmp_path / "again" / "model.safetensors")
    assert first.keys() == second.keys()
    assert all(torch.equal(second[name], tensor) for name, tensor in first.items())


@pytest.mark.parametrize("rope", ROPES)
@pytest.mark.parametrize("length", [10, 30])  # longrope takes other factors beyond its original 16 positions
def test_positions_are_scaled_as_in_the_plain_language_model(rope: str, length: int) -> None:
    model = built(stated("v4", rope_scaling=copy.deepcopy(ROPES[rope]), torch_dtype="float32"))
    sizes: dict[str, Any] = {
        "hidden_size": 128,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "vocab_size": 424,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "rope_scaling": copy.deepcopy(ROPES[rope]),
    }
    plain = LlamaForCausalLM(LlamaConfig(**sizes)).eval()
    plain.load_state_dict(model.llm.state_dict())
    assert torch.equal(logits(model, length), logits(plain, length))
    unscaled = built(stated("v4", torch_dtype="float32"))
    unscaled.load_state_dict(model.state_dict())
    # Only longrope with factor 1 leaves a short text alone: without one, 2048 / 16 is the factor.
    scales = rope != "none" and (rope, length) != ("longrope with factor", 10)
    assert torch.equal(logits(model, length), logits(unscaled, length)) is not scales


@pytest.mark.parametrize("version", ["v4", "v4_5"])
@pytest.mark.parametrize("head_dim", [8, 40])
def test_heads_may_be_of_any_width(version: str, head_dim: int, tmp_path: Path) -> None:
    model = built(stated(version, head_dim=head_dim, torch_dtype="float32"))
    heads = model.config.text_config.num_attention_heads
    assert model.llm.model.layers[0].self_attn.q_proj.weight.shape == (heads * head_dim, 128)
    model.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path)
    assert again.config.head_dim == head_dim
    assert torch.equal(logits(again, 9), logits(model, 9))


def test_a_window_that_is_stated_but_not_used_is_kept_and_not_used(tmp_path: Path) -> None:
    given = stated("v2_6", sliding_window=4, use_sliding_window=False, torch_dtype="float32")
    model = built(given)
    assert model.config.text_config.sliding_window is None
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text(encoding="utf-8")) == given


def test_a_window_that_is_used_hides_what_lies_behind_it() -> None:
    window = {"sliding_window": 4, "use_sliding_window": True, "max_window_layers": 0}
    windowed = built(stated("v2_6", **window, torch_dtype="float32"))
    whole = built(stated("v2_6", torch_dtype="float32"))
    whole.load_state_dict(windowed.state_dict())
    near, far = logits(windowed, 4), logits(windowed, 20)
    assert torch.equal(near, logits(whole, 4))
    assert not torch.allclose(far[:, -1], logits(whole, 20)[:, -1], atol=1e-4)


@pytest.mark.parametrize("version", VERSIONS)
def test_what_other_engines_read_stands_in_the_saved_file(version: str, tmp_path: Path) -> None:
    """vLLM and llama.cpp tell the release, the language model's sizes and the tower's from these."""
    AutoModel.from_pretrained(FIXTURES / version).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert (saved["model_type"], saved["architectures"]) == ("minicpmv", ["MiniCPMV"])
    assert {"hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"} <= saved.keys()
    assert {"intermediate_size", "vocab_size", "rms_norm_eps", "max_position_embeddings"} <= saved.keys()
    assert {"rope_theta", "query_num", "drop_vision_last_layer", "torch_dtype"} <= saved.keys()
    assert not {"text_config", "rope_parameters", "dtype", "minicpmv_version"} & saved.keys()
    if version != "v2":
        assert {"version", "slice_config", "vision_config", "batch_vision_input"} <= saved.keys()


def test_the_resampler_s_and_tower_s_batching_switches_of_4_5_are_kept(tmp_path: Path) -> None:
    """There is one way here: the result is that of the batched path, in chunks of any size."""
    given = stated("v4_5", batch_3d_resampler=False, vision_batch_size=3, torch_dtype="float32")
    built(given).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text(encoding="utf-8")) == given


def test_an_option_of_from_pretrained_reaches_the_part_that_it_concerns(tmp_path: Path) -> None:
    options: dict[str, Any] = {"num_hidden_layers": 1, "rope_theta": 5.0, "vision_config": {"num_hidden_layers": 1}}
    config = AutoConfig.from_pretrained(FIXTURES / "v2_6", **options)
    assert config.text_config.num_hidden_layers == 1
    assert config.text_config.rope_parameters["rope_theta"] == 5.0
    assert (config.vision_config.num_hidden_layers, config.vision_config.hidden_size) == (1, 48)
    config.save_pretrained(tmp_path)
    expected = stated("v2_6", num_hidden_layers=1, rope_theta=5.0)
    expected["vision_config"]["num_hidden_layers"] = 1
    assert json.loads((tmp_path / "config.json").read_text(encoding="utf-8")) == expected


def test_a_size_cannot_be_changed_when_the_parts_are_made() -> None:
    config = AutoConfig.from_pretrained(FIXTURES / "v2_6")
    config.num_hidden_layers = 2  # as it is
    with pytest.raises(ConfigError, match=r"num_hidden_layers: found 1 .*made with 2.*\n.*num_hidden_layers=1\)"):
        config.num_hidden_layers = 1


def test_the_vocabulary_s_size_is_the_language_model_s() -> None:
    model = MiniCPMVForConditionalGeneration.from_pretrained(FIXTURES / "v2_6")
    model.resize_token_embeddings(430, mean_resizing=False)
    assert model.config.vocab_size == 430
    model.config.vocab_size = 431
    assert model.config.text_config.vocab_size == 431


def test_a_config_shares_nothing_with_the_dictionary_it_was_made_of() -> None:
    given = stated("v2_6")
    config = MiniCPMVConfig(**given)
    given["slice_config"]["max_slice_nums"] = 99
    given["vision_config"]["hidden_size"] = 99
    assert config.slice_config["max_slice_nums"] == 4
    assert config.to_dict() == stated("v2_6")
