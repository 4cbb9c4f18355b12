"""Models of the released sizes, built without memory: parameter totals, key names and shapes of the released indices.

The expected names and shapes are written out from the layout of the released checkpoints, not taken from our model.
"""

from __future__ import annotations

from math import prod
from typing import Any

import pytest
import torch

from minicpmv.models.checkpoints.key_names import released_shapes
from minicpmv.models.configuration import MiniCPMVConfig
from minicpmv.models.modeling import MiniCPMVForConditionalGeneration
from tests.released_sizes import RELEASED

# Version: tensors, then parameters of llm, vpm and resampler. 2.0 counts resampler.pos_embed, which its file holds.
COUNTS = {
    "2.0": (694, 3_007_703_808, 397_747_744, 29_514_240),
    "2.5": (741, 8_030_261_248, 417_792_240, 89_038_848),
    "2.6": (789, 7_612_763_648, 417_792_240, 68_619_264),
    "4.5": (849, 8_189_195_264, 417_792_240, 88_907_776),
}
TOTALS = {"2.0": 3_434_965_792, "2.5": 8_537_092_336, "2.6": 8_099_175_152, "4.5": 8_695_895_280}

Layout = dict[str, tuple[int, ...]]


def linear(name: str, rows: int, columns: int, *, bias: bool = True) -> Layout:
    return {f"{name}.weight": (rows, columns)} | ({f"{name}.bias": (rows,)} if bias else {})


def norm(name: str, width: int, *, bias: bool = True) -> Layout:
    return {f"{name}.weight": (width,)} | ({f"{name}.bias": (width,)} if bias else {})


def language_layout(version: str, config: dict[str, Any]) -> Layout:
    width, inner, vocabulary = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    head = config.get("head_dim", width // config["num_attention_heads"])
    queries, keys = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    layout: Layout = {
        "llm.model.embed_tokens.weight": (vocabulary, width),
        "llm.model.norm.weight": (width,),
        "llm.lm_head.weight": (vocabulary, width),
    }
    for n in range(config["num_hidden_layers"]):
        layer = f"llm.model.layers.{n}"
        for part, rows in (("q", queries), ("k", keys), ("v", keys)):
            layout |= linear(f"{layer}.self_attn.{part}_proj", rows, width, bias=version == "2.6")
        if version == "4.5":
            layout |= {f"{layer}.self_attn.{part}_norm.weight": (head,) for part in "qk"}
        layout |= linear(f"{layer}.self_attn.o_proj", width, queries, bias=False)
        layout |= linear(f"{layer}.mlp.gate_proj", inner, width, bias=False)
        layout |= linear(f"{layer}.mlp.up_proj", inner, width, bias=False)
        layout |= linear(f"{layer}.mlp.down_proj", width, inner, bias=False)
        layout |= norm(f"{layer}.input_layernorm", width, bias=False)
        layout |= norm(f"{layer}.post_attention_layernorm", width, bias=False)
    return layout


def timm_layout(width: int = 1152, inner: int = 4304, blocks: int = 26, cells: int = 27 * 27) -> Layout:
    layout: Layout = {"vpm.pos_embed": (1, cells, width), "vpm.patch_embed.proj.bias": (width,)}
    layout |= {"vpm.patch_embed.proj.weight": (width, 3, 14, 14)} | norm("vpm.norm", width)
    for n in range(blocks):
        block = f"vpm.blocks.{n}"
        layout |= norm(f"{block}.norm1", width) | norm(f"{block}.norm2", width)
        layout |= linear(f"{block}.attn.qkv", 3 * width, width) | linear(f"{block}.attn.proj", width, width)
        layout |= linear(f"{block}.mlp.fc1", inner, width) | linear(f"{block}.mlp.fc2", width, inner)
    return layout


def navit_layout(width: int = 1152, inner: int = 4304, layers: int = 27, cells: int = 70 * 70) -> Layout:
    layout: Layout = {
        "vpm.embeddings.patch_embedding.weight": (width, 3, 14, 14),
        "vpm.embeddings.patch_embedding.bias": (width,),
        "vpm.embeddings.position_embedding.weight": (cells, width),
    } | norm("vpm.post_layernorm", width)
    for n in range(layers):
        layer = f"vpm.encoder.layers.{n}"
        layout |= norm(f"{layer}.layer_norm1", width) | norm(f"{layer}.layer_norm2", width)
        for part in ("q", "k", "v", "out"):
            layout |= linear(f"{layer}.self_attn.{part}_proj", width, width)
        layout |= linear(f"{layer}.mlp.fc1", inner, width) | linear(f"{layer}.mlp.fc2", width, inner)
    return layout


def resampler_layout(version: str, config: dict[str, Any], vision_width: int = 1152) -> Layout:
    width, queries = config["hidden_size"], config["query_num"]
    layout: Layout = {
        "resampler.query": (queries, width),
        "resampler.proj": (width, width),
        "resampler.attn.in_proj_weight": (3 * width, width),
        "resampler.attn.in_proj_bias": (3 * width,),
    }
    layout |= linear("resampler.attn.out_proj", width, width)
    layout |= linear("resampler.kv_proj", width, vision_width, bias=False)
    for name in ("ln_q", "ln_kv", "ln_post"):
        layout |= norm(f"resampler.{name}", width)
    return layout | ({"resampler.pos_embed": (queries, width)} if version == "2.0" else {})


@pytest.mark.parametrize("version", RELEASED)
def test_released_sizes_give_the_released_index(version: str) -> None:
    config = RELEASED[version]
    with torch.device("meta"):
        ours = released_shapes(MiniCPMVForConditionalGeneration(MiniCPMVConfig(**config)))
    tower = timm_layout() if version == "2.0" else navit_layout()
    expected = language_layout(version, config) | tower | resampler_layout(version, config)
    assert ours == expected

    parameters = [
        sum(prod(shape) for name, shape in ours.items() if name.startswith(f"{part}."))
        for part in ("llm", "vpm", "resampler")
    ]
    assert (len(ours), *parameters) == COUNTS[version]
    assert sum(parameters) == TOTALS[version]


def test_a_config_without_fields_is_the_released_2_6() -> None:
    with torch.device("meta"):
        ours = released_shapes(MiniCPMVForConditionalGeneration(MiniCPMVConfig()))
    assert sum(map(prod, ours.values())) == TOTALS["2.6"]
