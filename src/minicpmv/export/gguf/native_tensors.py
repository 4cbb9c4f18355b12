"""Lists what llama.cpp's own converter makes of the tensors of 4.6 and later, so that its files can be verified.

The converter renames every tensor, and changes those of the language model that llama.cpp computes otherwise: norms get
their 1, decays their sign and exponential, and value heads of linear attention lie in another order where there are
more of them than key heads. Nothing here writes a file.
Source: ``conversion/qwen.py`` and ``conversion/minicpm.py`` of llama.cpp, as in llama-cpp-python 0.3.36.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from gguf import MODEL_ARCH, TensorNameMap, get_tensor_name_map
from numpy.typing import NDArray

from minicpmv.export.gguf.language_model import engine_name
from minicpmv.export.gguf.tensors import EngineTensor, as_it_is
from minicpmv.models.checkpoints.weight_files import Shape
from minicpmv.models.configuration import MiniCPMVConfig

__all__ = ["native_language_tensors", "native_vision_tensors"]

Array = NDArray[np.float32]

_ROUNDING = 1e-3
"""Adding 1 to a weight in float32 and taking it away again; float16 files are rounded more."""
_ROUNDING_IN_FLOAT16 = 0.05

_VISION: Mapping[str, str] = {
    "vision_tower.embeddings.patch_embedding": "v.patch_embd",
    "vision_tower.embeddings.position_embedding": "v.position_embd",
    "vision_tower.post_layernorm": "v.post_ln",
    "vision_tower.vit_merger.layer_norm1": "v.vit_merger.ln1",
    "vision_tower.vit_merger.self_attn.q_proj": "v.vit_merger.attn_q",
    "vision_tower.vit_merger.self_attn.k_proj": "v.vit_merger.attn_k",
    "vision_tower.vit_merger.self_attn.v_proj": "v.vit_merger.attn_v",
    "vision_tower.vit_merger.self_attn.out_proj": "v.vit_merger.attn_out",
    "vision_tower.vit_merger.pre_norm": "v.vit_merger.ds_ln",
    "vision_tower.vit_merger.linear_1": "v.vit_merger.ds_ffn_up",
    "vision_tower.vit_merger.linear_2": "v.vit_merger.ds_ffn_down",
    "merger.mlp.0.pre_norm": "mm.input_norm",
    "merger.mlp.0.linear_1": "mm.up",
    "merger.mlp.0.linear_2": "mm.down",
}
_LAYER: Mapping[str, str] = {
    "layer_norm1": "ln1",
    "layer_norm2": "ln2",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.out_proj": "attn_out",
    "mlp.fc1": "ffn_up",
    "mlp.fc2": "ffn_down",
}
_MODEL, _TOWER_LAYERS, _WINDOWS = "model.", "vision_tower.encoder.layers.", "model.vision_tower.vit_merger."


def native_vision_tensors(config: MiniCPMVConfig, shapes: Mapping[str, Shape]) -> list[EngineTensor]:
    """List every tensor of tower and merger. With 4x, which never computes the tower's own merger, that stays out."""
    parts = config.minicpmv_version.network.parts
    config_4_6: Any = config
    leaves_out = _WINDOWS if config_4_6.downsample_mode == "4x" else None
    return [
        as_it_is(_vision_name(source), source, shape)
        for source, shape in shapes.items()
        if source.startswith((f"{parts.tower}.", f"{parts.connector}."))
        and not (leaves_out and source.startswith(leaves_out))
    ]


def _vision_name(source: str) -> str:
    inner, _, kind = source.removeprefix(_MODEL).rpartition(".")
    if not inner.startswith(_TOWER_LAYERS):
        return f"{_VISION[inner]}.{kind}"
    number, _, module = inner.removeprefix(_TOWER_LAYERS).partition(".")
    return f"v.blk.{number}.{_LAYER[module]}.{kind}"


def native_language_tensors(config: MiniCPMVConfig, shapes: Mapping[str, Shape], *, half: bool) -> list[EngineTensor]:
    """List every tensor of the language model, in the order of the checkpoint.

    Args:
        config: The checkpoint's.
        shapes: Shapes of its tensors by name.
        half: Whether its numbers are float16, in which the converter adds.
    """
    parts = config.minicpmv_version.network.parts
    language: Any = config.text_config
    arch = MODEL_ARCH.QWEN35MOE if language.model_type.endswith("moe_text") else MODEL_ARCH.QWEN35
    names = get_tensor_name_map(arch, language.num_hidden_layers)
    return [
        tensor
        for source, shape in shapes.items()
        if source.startswith((f"{parts.language_model}.", f"{parts.head}."))
        for tensor in _language_tensors(
            language, names, source, shape, rounding=_ROUNDING_IN_FLOAT16 if half else _ROUNDING
        )
    ]


def _language_tensors(
    text: Any, names: TensorNameMap, source: str, shape: Shape, *, rounding: float
) -> Iterator[EngineTensor]:
    inner = source.replace("model.language_model.", _MODEL)
    if ".mlp.experts." in source:
        yield from _experts(names, inner, source, shape)
    elif source.endswith(".linear_attn.norm.weight"):
        yield as_it_is(engine_name(names, inner), source, shape)
    elif source.endswith("norm.weight"):
        yield EngineTensor(
            name=engine_name(names, inner),
            source=source,
            shape=shape,
            change=lambda values: values + np.float32(1),
            undo=lambda values: values - np.float32(1),
            rounding=rounding,
        )
    elif ".linear_attn." in source:
        yield _linear_attention(text, names, inner, source, shape, rounding=rounding)
    else:
        yield as_it_is(engine_name(names, inner), source, shape)


def _experts(names: TensorNameMap, inner: str, source: str, shape: Shape) -> Iterator[EngineTensor]:
    """Split the joined projections of all experts, (experts, 2 * width, hidden), into the two that llama.cpp has."""
    layer, _, projection = inner.rpartition(".")
    if projection != "gate_up_proj":
        yield as_it_is(engine_name(names, f"{inner}.weight"), source, shape)
        return
    width = shape[1] // 2
    for place, part in enumerate(("gate_proj", "up_proj")):
        name = engine_name(names, f"{layer}.{part}.weight")
        rows = (place * width, (place + 1) * width)
        yield EngineTensor(name=name, source=source, shape=(shape[0], width, shape[2]), rows=rows, axis=1)


def _linear_attention(
    text: Any, names: TensorNameMap, inner: str, source: str, shape: Shape, *, rounding: float
) -> EngineTensor:
    """Sort value heads by their place within a key head, and not by the key head, as ggml repeats key heads."""
    groups = text.linear_num_key_heads
    each = text.linear_num_value_heads // groups
    width = text.linear_value_head_dim
    before = 2 * groups * text.linear_key_head_dim  # channels of queries and keys, which keep their places
    kind = inner.rsplit(".linear_attn.", 1)[1]
    start, axis, head = {
        "in_proj_qkv.weight": (before, 0, width),
        "conv1d.weight": (before, 0, width),
        "in_proj_z.weight": (0, 0, width),
        "out_proj.weight": (0, 1, width),
    }.get(kind, (0, 0, 1))  # others have a row for each head

    def reorder(values: Array, order: tuple[int, int]) -> Array:
        lying = np.moveaxis(values, axis, 0)
        moved = lying[start:].reshape(*order, head, *lying.shape[1:]).swapaxes(0, 1)
        return np.moveaxis(np.concatenate([lying[:start], moved.reshape(-1, *lying.shape[1:])]), 0, axis)

    def change(values: Array) -> Array:
        tiled = reorder(values, (groups, each))
        return -np.exp(tiled) if kind == "A_log" else tiled.squeeze(1) if kind == "conv1d.weight" else tiled

    def undo(values: Array) -> Array:
        grouped = reorder(values, (each, groups))
        return np.log(-grouped) if kind == "A_log" else grouped[:, None] if kind == "conv1d.weight" else grouped

    return EngineTensor(
        name=engine_name(names, inner.replace(".dt_bias", ".dt_proj.bias")),
        source=source,
        shape=(shape[0], shape[2]) if kind == "conv1d.weight" else shape,
        change=change,
        undo=undo,
        rounding=rounding if kind == "A_log" else 0.0,
    )
