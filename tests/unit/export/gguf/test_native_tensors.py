"""What llama.cpp's converter does to the tensors of 4.6 and later, and the way back."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from minicpmv.export.checkpoint import open_checkpoint
from minicpmv.export.gguf.native_tensors import native_language_tensors, native_vision_tensors
from minicpmv.export.gguf.tensors import EngineTensor
from minicpmv.releases.table import VERSIONS
from tests.tiny import FIXTURES


@pytest.fixture(scope="module", params=["v4_6", "v4_7"])
def tensors(request: pytest.FixtureRequest) -> tuple[list[EngineTensor], dict[str, Any]]:
    checkpoint = open_checkpoint(str(FIXTURES / request.param))
    config, shapes = checkpoint.config, checkpoint.shapes
    listed = [*native_language_tensors(config, shapes, half=False), *native_vision_tensors(config, shapes)]
    return listed, load_file(FIXTURES / request.param / "model.safetensors")


def test_every_tensor_has_a_name_of_its_own(tensors: tuple[list[EngineTensor], dict[str, Any]]) -> None:
    listed, values = tensors
    assert len({tensor.name for tensor in listed}) == len(listed)
    assert {tensor.source for tensor in listed} == {name for name in values if not name.startswith("mtp.")}


def test_the_way_back_gives_the_source(tensors: tuple[list[EngineTensor], dict[str, Any]]) -> None:
    listed, values = tensors
    for tensor in listed:
        source = values[tensor.source].float().numpy()
        made = tensor.of(source)
        assert made.shape == tensor.shape, tensor.name
        np.testing.assert_allclose(tensor.undo(made), source, atol=1e-6 if tensor.rounding else 0, rtol=0)


def _of(text: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> list[EngineTensor]:
    config: Any = SimpleNamespace(minicpmv_version=VERSIONS["4.7-A3B"], text_config=SimpleNamespace(**text))
    return native_language_tensors(config, shapes, half=False)


def test_value_heads_lie_by_their_place_within_a_key_head() -> None:
    """Two key heads of two value heads each, two wide: llama.cpp repeats key heads 0, 1, 0, 1."""
    text = {
        "model_type": "qwen3_5_text",
        "num_hidden_layers": 1,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 1,
        "linear_value_head_dim": 2,
    }
    at = "model.language_model.layers.0.linear_attn."
    shapes = {f"{at}in_proj_qkv.weight": (12, 1), f"{at}out_proj.weight": (1, 8), f"{at}dt_bias": (4,)}
    qkv, out, bias = _of(text, shapes)
    assert qkv.of(np.arange(12, dtype=np.float32)[:, None])[:, 0].tolist() == [0, 1, 2, 3, 4, 5, 8, 9, 6, 7, 10, 11]
    assert out.of(np.arange(8, dtype=np.float32)[None])[0].tolist() == [0, 1, 4, 5, 2, 3, 6, 7]
    assert bias.of(np.arange(4, dtype=np.float32)).tolist() == [0, 2, 1, 3]
    assert bias.name == "blk.0.ssm_dt.bias"


def test_joined_experts_are_split_in_their_second_axis() -> None:
    text = {"model_type": "qwen3_5_moe_text", "num_hidden_layers": 1}
    at = "model.language_model.layers.0.mlp.experts."
    shapes = {f"{at}gate_up_proj": (2, 4, 3), f"{at}down_proj": (2, 3, 2)}
    gate, up, down = _of(text, shapes)
    assert [each.name for each in (gate, up, down)] == [
        "blk.0.ffn_gate_exps.weight",
        "blk.0.ffn_up_exps.weight",
        "blk.0.ffn_down_exps.weight",
    ]
    source = torch.arange(24.0).reshape(2, 4, 3).numpy()
    np.testing.assert_array_equal(np.concatenate([gate.of(source), up.of(source)], axis=1), source)
    assert gate.of(source)[1, 0, 0] == 12
