"""Wherever the weights lie and whatever their precision, the model answers as it does in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModel

from minicpmv.models.modeling import MiniCPMVForConditionalGeneration
from tests.parity.cases import FIXTURES, VERSIONS, load_case

# bfloat16's steps are 2^-8, float16's 2^-11. Measured on these cases, whose logits reach 4.6: at most 0.16 and 0.013.
CLOSE = {torch.bfloat16: 0.25, torch.float16: 0.03}
# Placing knows parts, and no release.
_VERSIONS = [each if each == "v2_6" else pytest.param(each, marks=pytest.mark.slow) for each in VERSIONS]


def logits(model: Any, version: str) -> Tensor:
    with torch.no_grad():
        return model(**load_case(version, "sliced_multi_turn").inputs).logits


def in_memory(version: str) -> MiniCPMVForConditionalGeneration:
    return MiniCPMVForConditionalGeneration.from_pretrained(FIXTURES / version, dtype=torch.float32)


@pytest.mark.parametrize("version", _VERSIONS)
@pytest.mark.parametrize("device_map", ["cpu", "auto", {"": "cpu"}])
def test_a_device_map_changes_no_logit(version: str, device_map: Any) -> None:
    placed = AutoModel.from_pretrained(FIXTURES / version, dtype=torch.float32, device_map=device_map)
    assert torch.equal(logits(placed, version), logits(in_memory(version), version))


@pytest.mark.parametrize("version", _VERSIONS)
@pytest.mark.parametrize("part", ["llm", "vpm", "resampler"])
@pytest.mark.filterwarnings("ignore:Attempting to save a model with offloaded modules")  # which is what is tested
def test_a_part_on_disk_changes_no_logit_and_is_saved_whole(version: str, part: str, tmp_path: Path) -> None:
    """The resampler's query and projection are bare parameters, which no module of their own brings back from disk."""
    device_map = {"llm": "cpu", "vpm": "cpu", "resampler": "cpu"} | {part: "disk"}
    placed = AutoModel.from_pretrained(
        FIXTURES / version, dtype=torch.float32, device_map=device_map, offload_folder=tmp_path / "offloaded"
    )
    assert all(parameter.is_meta for parameter in placed.get_submodule(part).parameters())
    whole: Any = in_memory(version)
    assert torch.equal(logits(placed, version), logits(whole, version))
    inputs = load_case(version, "unsliced").inputs
    told: dict[str, Any] = {"max_new_tokens": 2, "do_sample": False}
    assert torch.equal(placed.generate(**inputs, **told), whole.generate(**inputs, **told))

    placed.save_pretrained(tmp_path / "saved")
    again = AutoModel.from_pretrained(tmp_path / "saved")
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in whole.state_dict().items())


@pytest.mark.parametrize("version", VERSIONS)
def test_the_checkpoint_s_own_precision_is_the_default(version: str) -> None:
    stated = torch.float16 if version == "v2_5" else torch.bfloat16
    model = AutoModel.from_pretrained(FIXTURES / version)
    assert {tensor.dtype for tensor in model.state_dict().values()} == {stated}
    assert model.config.dtype == model.config.text_config.dtype == stated


@pytest.mark.parametrize("version", _VERSIONS)
@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("way", ["dtype=", "torch_dtype=", ".to()"])
def test_half_precision_stays_near_float32(version: str, dtype: torch.dtype, way: str) -> None:
    if way == ".to()":
        model = in_memory(version).to(dtype)  # pyright: ignore[reportArgumentType]  transformers leaves it untyped
    else:
        model = AutoModel.from_pretrained(FIXTURES / version, **{way.rstrip("="): dtype})
    assert {tensor.dtype for tensor in model.state_dict().values()} == {dtype}
    found, expected = logits(model, version), logits(in_memory(version), version)
    assert found.dtype == dtype
    assert (found.float() - expected).abs().max() < CLOSE[dtype]


@pytest.mark.parametrize("cast", [nn.Module.half, nn.Module.bfloat16, lambda model: model.to("cpu", torch.bfloat16)])
def test_casting_a_model_leaves_its_rotary_frequencies_exact(cast: Any) -> None:
    model = in_memory("v2_6")
    exact = model.llm.model.rotary_emb.inv_freq.clone()
    outer = nn.Sequential(model)  # as an adapter or an engine would wrap it
    cast(outer)
    assert model.llm.lm_head.weight.dtype in CLOSE
    for name in ("inv_freq", "original_inv_freq"):
        assert torch.equal(getattr(model.llm.model.rotary_emb, name), exact)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_model_that_was_cast_answers_as_one_that_was_loaded_so(version: str) -> None:
    cast: Any = nn.Module.bfloat16(in_memory(version))
    loaded = AutoModel.from_pretrained(FIXTURES / version, dtype=torch.bfloat16)
    assert torch.equal(logits(cast, version), logits(loaded, version))


def test_a_model_may_go_to_the_meta_device_and_back() -> None:
    model: Any = nn.Module.to(in_memory("v2_6"), "meta")
    model.to_empty(device="cpu")
    assert model.llm.model.rotary_emb.inv_freq.device.type == "cpu"
