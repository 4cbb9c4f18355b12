"""Holds the files of releases that transformers computes itself (4.6 and later) against bounds, and each other.

Their ``config.json`` nests the language model's fields, and their image settings name how far a picture is shrunk,
which ``config.json`` and ``preprocessor_config.json`` both state.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from minicpmv.errors import CheckpointError
from minicpmv.releases.file_bounds import CONFIG, PREPROCESSOR
from minicpmv.releases.json_bounds import (
    FLAG,
    ListOf,
    Nothing,
    Number,
    Object,
    OneOf,
    Rule,
    Text,
    or_null,
    quote,
    whole,
)
from minicpmv.releases.table import Version

__all__ = ["NATIVE_CONFIG", "check_downsample_mode", "check_one_mode", "is_nested", "native_relations"]

_HEADS = whole(1, 1024)
_PAIR = ListOf(OneOf((2,)), least=2, most=2)
"""The networks join two by two, and nothing else."""
_OF_BOTH = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "hidden_act",
    "attention_dropout",
    "initializer_range",
    "dtype",
    "torch_dtype",
    "attn_implementation",
    "_attn_implementation",
    "_attn_implementation_internal",
    "experts_implementation",
    "_experts_implementation",
)
_ROPE = Object(
    {
        "rope_type": OneOf(("default",)),
        "type": OneOf(("default", "mrope")),
        "rope_theta": Number(0, 1e15, is_above=True),
        "partial_rotary_factor": Number(0, 1, is_above=True),
        "mrope_section": ListOf(whole(0, 4096), least=3, most=3),
        "mrope_interleaved": OneOf((True,)),
    }
)
_TEXT: dict[str, Rule] = {
    **{key: CONFIG[key] for key in _OF_BOTH},
    **{
        key: CONFIG[key]
        for key in (
            "num_key_value_heads",
            "vocab_size",
            "max_position_embeddings",
            "rms_norm_eps",
            "attention_bias",
            "use_cache",
            "tie_word_embeddings",
            "bos_token_id",
            "eos_token_id",
            "pad_token_id",
            "rope_theta",
        )
    },
    "model_type": OneOf(("qwen3_5_text", "qwen3_5_moe_text")),
    "head_dim": whole(2, 4096),
    "rope_parameters": or_null(_ROPE),
    "rope_scaling": Nothing("rope_parameters says it"),
    "partial_rotary_factor": Number(0, 1, is_above=True),
    "layer_types": or_null(ListOf(OneOf(("full_attention", "linear_attention")), most=1000)),
    "full_attention_interval": whole(1, 1000),
    "attn_output_gate": OneOf((True,)),
    "linear_conv_kernel_dim": whole(2, 64),
    "linear_key_head_dim": whole(1, 4096),
    "linear_value_head_dim": whole(1, 4096),
    "linear_num_key_heads": _HEADS,
    "linear_num_value_heads": _HEADS,
    "mamba_ssm_dtype": CONFIG["dtype"],
    "moe_intermediate_size": whole(1, 2**20),
    "shared_expert_intermediate_size": whole(1, 2**20),
    "num_experts": whole(1, 4096),
    "num_experts_per_tok": whole(1, 4096),
    "output_router_logits": FLAG,
    "router_aux_loss_coef": Number(0, 1000),
    "mtp_num_hidden_layers": or_null(whole(0, 100)),
}
_VISION: dict[str, Rule] = {
    **{key: CONFIG[key] for key in _OF_BOTH},
    "model_type": Text(100),
    "num_channels": OneOf((3,)),
    "image_size": whole(1, 16_384),
    "patch_size": whole(1, 256),
    "layer_norm_eps": Number(0, 0.1),
    "insert_layer_id": whole(0, 1000),
    "window_kernel_size": _PAIR,
}
NATIVE_CONFIG: dict[str, Rule] = {
    **{key: CONFIG[key] for key in ("model_type", "version", "auto_map", "architectures", "tie_word_embeddings")},
    **{key: CONFIG[key] for key in (*_OF_BOTH[7:], "bos_token_id", "eos_token_id", "pad_token_id")},
    **{key: CONFIG[key] for key in ("image_size", "drop_vision_last_layer", "quantization_config", "per_layer_config")},
    "text_config": Object(_TEXT, needed=("model_type",)),
    "vision_config": Object(_VISION),
    "downsample_mode": PREPROCESSOR["downsample_mode"],
    "insert_layer_id": whole(0, 1000),
    "merge_kernel_size": _PAIR,
    "merger_times": whole(1, 10),
    "mrope_mode": or_null(Text(100)),
    **dict.fromkeys(
        (
            "image_token_id",
            "video_token_id",
            "image_start_id",
            "image_end_id",
            "slice_start_id",
            "slice_end_id",
            "newline_id",
        ),
        or_null(whole(0, 4_000_000)),
    ),
}
"""Every value that is read of such a ``config.json``."""


def is_nested(version: Version) -> bool:
    """Whether a release's ``config.json`` has its language model's fields under ``text_config``."""
    return "text_config" in version.network.needed_fields


def native_relations(fields: Mapping[str, Any]) -> Iterator[tuple[bool, str, object, str]]:
    """Yield what must fit: whether it does, its key, what was found and expected. Each value alone is sound."""
    for part in ("text_config", "vision_config"):
        for key in ("hidden_size", "num_hidden_layers", "num_attention_heads"):
            yield fields[part].get(key) is not None, f"{part}.{key}", None, "its number"
    text, vision = fields["text_config"], fields["vision_config"]
    heads, groups = text["num_attention_heads"], text.get("num_key_value_heads") or text["num_attention_heads"]
    yield heads % groups == 0, "text_config.num_key_value_heads", groups, f"a divisor of num_attention_heads {heads}"
    keys, values = text.get("linear_num_key_heads", 16), text.get("linear_num_value_heads", 32)
    yield values % keys == 0, "text_config.linear_num_key_heads", keys, f"a divisor of linear_num_value_heads {values}"
    rope = text.get("rope_parameters") or {}
    sections, rotated = rope.get("mrope_section"), text.get("head_dim", 256) * rope.get("partial_rotary_factor", 0.25)
    if sections is not None:
        place, expected = "text_config.rope_parameters.mrope_section", f"three numbers that sum to {rotated / 2:g}"
        yield sum(sections) == rotated / 2, place, sections, expected
    types, layers = text.get("layer_types"), text["num_hidden_layers"]
    if types is not None:
        yield len(types) == layers, "text_config.layer_types", types, f"one for each of {layers} num_hidden_layers"
    used, experts = text.get("num_experts_per_tok", 8), text.get("num_experts", 256)
    yield used <= experts, "text_config.num_experts_per_tok", used, f"at most num_experts {experts}"
    vocabulary = text.get("vocab_size", 2**31)
    for place, holder in (("", fields), ("text_config.", text)):
        for key in (key for key in holder if key.endswith("_id") and key != "insert_layer_id"):
            stated = holder[key]
            for token in stated if isinstance(stated, list) else [] if stated is None else [stated]:
                if isinstance(token, int):
                    yield token < vocabulary, place + key, token, f"an id below vocab_size {vocabulary}"
    width, heads = vision["hidden_size"], vision["num_attention_heads"]
    yield width % heads == 0, "vision_config.num_attention_heads", heads, f"a divisor of its hidden_size {width}"
    layer, layers = fields.get("insert_layer_id", 6), vision["num_hidden_layers"]
    yield layer < layers, "insert_layer_id", layer, f"a layer of the vision tower's {layers}"
    image, patch = vision.get("image_size", 980), vision.get("patch_size", 14)
    yield patch <= image, "vision_config.patch_size", patch, f"at most its image_size {image}"


def check_downsample_mode(mode: str | None, version: Version, *, where: object) -> None:
    """Make sure that a release knows a ``downsample_mode``.

    Raises:
        CheckpointError: It does not, or it has no choice of them.
    """
    modes = version.reading.downsample_modes
    if mode is None or mode in modes:
        return
    expected = f"one of {', '.join(modes)}" if modes else f"none: {version.model} has one way to shrink a picture"
    fix = "state the mode that the weights were trained with" if modes else "leave downsample_mode out"
    raise CheckpointError(f"{where}: downsample_mode: found {quote(mode)}, expected {expected}\n  fix: {fix}")


def check_one_mode(config: Mapping[str, Any], preprocessor: Mapping[str, Any], *, where: object) -> None:
    """Make sure that both files of a directory mean one ``downsample_mode``, so that text and network agree.

    Args:
        config: The fields of ``config.json``.
        preprocessor: Those of ``preprocessor_config.json``.
        where: The directory.

    Raises:
        CheckpointError: They state two.
    """
    stated = config.get("downsample_mode"), preprocessor.get("downsample_mode")
    if None not in stated and stated[0] != stated[1]:
        raise CheckpointError(
            f"{where}: downsample_mode: found {quote(stated[0])} in config.json and {quote(stated[1])} in "
            "preprocessor_config.json, expected one for both: the text would have places for other image tokens than "
            "the network makes\n  fix: write the mode that the weights were trained with into both"
        )
