"""Translates vision tower and resampler for llama.cpp: the file that it calls mmproj."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from gguf import MODEL_ARCH, GGUFWriter, get_tensor_name_map

from minicpmv.export.gguf.language_model import engine_name, gguf_of
from minicpmv.export.gguf.tensors import EngineTensor, as_it_is, third, transposed
from minicpmv.models.checkpoints.weight_files import Shape
from minicpmv.models.configuration import MiniCPMVConfig
from minicpmv.processing.image_processor import MiniCPMVImageProcessor

__all__ = ["ARCHITECTURE", "POSITIONS", "vision_tensors", "write_vision_sizes"]

ARCHITECTURE = "clip"
"""llama.cpp's name for every vision tower."""

POSITIONS = "resampler.pos_embed_k"
"""Table of sine positions, which older engines read and newer ones only require to exist: both compute the same."""

_RESAMPLER: Mapping[str, str] = {
    "query": "resampler.query",
    "kv_proj.weight": "resampler.kv.weight",
    "attn.out_proj.weight": "resampler.attn.out.weight",
    "attn.out_proj.bias": "resampler.attn.out.bias",
    "ln_q.weight": "resampler.ln_q.weight",
    "ln_q.bias": "resampler.ln_q.bias",
    "ln_kv.weight": "resampler.ln_kv.weight",
    "ln_kv.bias": "resampler.ln_kv.bias",
    "ln_post.weight": "resampler.ln_post.weight",
    "ln_post.bias": "resampler.ln_post.bias",
}


def write_vision_sizes(writer: GGUFWriter, config: MiniCPMVConfig, images: MiniCPMVImageProcessor) -> None:
    """Write the sizes with which the engine builds the network and cuts pictures."""
    vision = config.vision_config
    writer.add_clip_has_vision_encoder(True)
    writer.add_bool("clip.has_minicpmv_projector", True)
    writer.add_clip_projector_type("resampler")
    writer.add_int32("clip.minicpmv_version", gguf_of(config).version)
    writer.add_uint32("clip.minicpmv_query_num", config.query_num)
    # Not a picture's size: the engine cuts slices of about this many pixels squared.
    writer.add_vision_image_size(images.scale_resolution)
    writer.add_vision_patch_size(cast("int", vision.patch_size))
    writer.add_vision_embedding_length(vision.hidden_size)
    writer.add_vision_feed_forward_length(vision.intermediate_size)
    writer.add_vision_projection_dim(cast("Any", config.text_config).hidden_size)
    writer.add_vision_head_count(vision.num_attention_heads)
    writer.add_vision_attention_layernorm_eps(vision.layer_norm_eps)
    writer.add_vision_block_count(vision.num_hidden_layers)
    writer.add_vision_image_mean(images.norm_mean)
    writer.add_vision_image_std(images.norm_std)
    writer.add_vision_use_gelu(True)  # the tanh approximation, which all releases but 2.0 use


def vision_tensors(config: MiniCPMVConfig, shapes: Mapping[str, Shape]) -> list[EngineTensor]:
    """List every tensor of tower and resampler, in the order of the checkpoint."""
    names = get_tensor_name_map(MODEL_ARCH.MMPROJ, config.vision_config.num_hidden_layers)
    tensors: list[EngineTensor] = []
    for source, shape in shapes.items():
        if source.startswith("vpm.post_layernorm."):  # which the library has for other towers only
            tensors.append(as_it_is(f"v.post_ln.{source.rpartition('.')[2]}", source, shape))
        elif source.startswith("vpm."):
            tensors.append(as_it_is(engine_name(names, source), source, shape))
        elif source.startswith("resampler.attn.in_proj_"):
            kind = source.rpartition("_")[2]
            tensors += [
                third(f"resampler.attn.{letter}.{kind}", source, shape, place) for place, letter in enumerate("qkv")
            ]
        elif source == "resampler.proj":
            tensors.append(transposed("resampler.proj.weight", source, shape))
        elif source.startswith("resampler."):
            tensors.append(as_it_is(_RESAMPLER[source.removeprefix("resampler.")], source, shape))
    return tensors
