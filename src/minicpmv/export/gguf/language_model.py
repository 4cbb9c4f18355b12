"""Translates the language model for llama.cpp: sizes to its keys, tensors to its names.

2.5 and 4 are llama.cpp's Llama, 2.6 its Qwen2, 4.5 its Qwen3. It cannot express how 2.0's language model scales its
embeddings next to images, and has no vision part for 2.0; ``limits`` refuses that release.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, GGUFWriter, TensorNameMap, get_tensor_name_map

from minicpmv.export.gguf.tensors import EngineTensor, as_it_is, interleaved
from minicpmv.models.checkpoints.weight_files import Shape
from minicpmv.models.configuration import MiniCPMVConfig
from minicpmv.releases.row import Gguf

__all__ = ["PREFIX", "architecture", "gguf_of", "language_tensors", "write_language_sizes"]

PREFIX = "llm."
"""Prefix of the language model's tensors in a checkpoint."""

_SUFFIXES = (".weight", ".bias")


def gguf_of(config: MiniCPMVConfig) -> Gguf:
    """Return llama.cpp's names for the release; ``limits`` has refused the releases that it does not know."""
    known = config.minicpmv_version.engines.gguf
    assert isinstance(known, Gguf), known
    return known


def architecture(config: MiniCPMVConfig) -> str:
    """Return the engine's name for the language model."""
    return MODEL_ARCH_NAMES[MODEL_ARCH[gguf_of(config).architecture]]


def write_language_sizes(writer: GGUFWriter, config: MiniCPMVConfig) -> None:
    """Write the sizes from which the engine builds the network."""
    text: Any = config.text_config  # a different class per release
    head_width = head_width_of(config)
    writer.add_block_count(text.num_hidden_layers)
    writer.add_context_length(text.max_position_embeddings)
    writer.add_embedding_length(text.hidden_size)
    writer.add_feed_forward_length(text.intermediate_size)
    writer.add_head_count(text.num_attention_heads)
    writer.add_head_count_kv(text.num_key_value_heads)
    writer.add_key_length(head_width)
    writer.add_value_length(head_width)
    writer.add_rope_dimension_count(head_width)
    writer.add_rope_freq_base(text.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(text.rms_norm_eps)
    writer.add_vocab_size(text.vocab_size)


def head_width_of(config: MiniCPMVConfig) -> int:
    """Return the number of channels of one attention head of the language model."""
    text: Any = config.text_config
    return getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads


def language_tensors(config: MiniCPMVConfig, shapes: Mapping[str, Shape]) -> list[EngineTensor]:
    """List every tensor of the language model, in the order of the checkpoint."""
    text: Any = config.text_config
    arch = MODEL_ARCH[gguf_of(config).architecture]
    names = get_tensor_name_map(arch, text.num_hidden_layers)
    tensors: list[EngineTensor] = []
    for source, shape in shapes.items():
        if not source.startswith(PREFIX):
            continue
        name = engine_name(names, source.removeprefix(PREFIX))
        if arch is MODEL_ARCH.LLAMA and ".self_attn.q_proj." in source:
            tensors.append(interleaved(name, source, shape, text.num_attention_heads))
        elif arch is MODEL_ARCH.LLAMA and ".self_attn.k_proj." in source:
            tensors.append(interleaved(name, source, shape, text.num_key_value_heads))
        else:
            tensors.append(as_it_is(name, source, shape))
    return tensors


def engine_name(names: TensorNameMap, source: str) -> str:
    """Translate a tensor's name; the library knows all of these models' names."""
    name = names.get_name(source, try_suffixes=_SUFFIXES)
    assert name is not None, source
    return name
