"""One table: what differs between the released MiniCPM-V versions.

Everything a checkpoint's own config states (sizes, vocabulary, slicing) is read from there; this table holds only what
the version number implies. It needs neither torch nor transformers, so that reading and checking data stays light.
Source: the released configs and modelling files, section by section in ``docs/versions.md``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from minicpmv.errors import CheckpointError

__all__ = ["LLM_TYPES", "VERSIONS", "Version", "detect_version"]

LanguageModel = Literal["granite", "llama", "qwen2", "qwen3"]
PositionScheme = Literal["interpolated", "row", "grid"]
Dialect = Literal["minicpm", "llama3", "chatml", "qwen3"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Version:
    """What one released version implies beyond its config."""

    name: str
    """As people write it: ``2.6``."""
    model: str
    """The released model that defines the version."""
    language_model: LanguageModel
    """The transformers architecture that computes exactly what the released language model does."""
    llm_types: tuple[str, ...]
    """Values of the official scripts' ``--llm_type`` that mean this version; the first is the one we write."""
    dialect: Dialect
    """How a conversation becomes text; see ``minicpmv.processing.text.chat``."""
    terminators: tuple[str, ...]
    """Tokens at which generation stops, those of them that the tokenizer has. Released generation configs miss some,
    such as 2.5's ``<|eot_id|>``."""
    vision_positions: PositionScheme
    """``interpolated``: a learned table resized to each slice (2.0). ``row``: bucketed along the first row of the table
    by the sample's longest slice, padding attended (2.5). ``grid``: bucketed rows and columns (2.6 and later)."""
    vision_activation: Literal["gelu", "gelu_pytorch_tanh"]
    """2.0's timm tower uses the exact error function, later towers the tanh approximation."""
    query_positions: bool
    """Whether the resampler stores positions for its queries (``resampler.pos_embed``, 2.0 only)."""
    slice_tags: tuple[str, str]
    """Tokens around one tile of a sliced image. 2.0 and 2.5 reuse ``<image>`` and wrap the grid in ``<slice>``."""
    wraps_grid: bool
    """Whether ``<slice>`` ... ``</slice>`` encloses the grid (2.0, 2.5) instead of each tile (2.6 and later)."""
    image_ids: bool
    """Whether ``<image_id>k</image_id>`` stands before each image unless the checkpoint says otherwise."""
    max_input_tokens: int
    """Tokens. The released ``chat()``'s default ``max_inp_length``."""
    overflows_in_float16: bool = False
    """Whether numbers that its language model computes are known to exceed float16, as those of Qwen2-7B do
    (https://github.com/QwenLM/Qwen3/issues/868)."""
    temporal: bool = False
    """Whether the resampler can join frames of a video (4.5)."""
    thinking: bool = False
    """Whether the template has a switch for thinking (4.5)."""


_TILE_AS_IMAGE: tuple[str, str] = ("<image>", "</image>")
_TILE_AS_SLICE: tuple[str, str] = ("<slice>", "</slice>")

VERSIONS: Mapping[str, Version] = {
    version.name: version
    for version in (
        Version(
            name="2.0",
            model="openbmb/MiniCPM-V-2",
            language_model="granite",
            llm_types=("minicpm",),
            dialect="minicpm",
            terminators=("</s>",),
            vision_positions="interpolated",
            vision_activation="gelu",
            query_positions=True,
            slice_tags=_TILE_AS_IMAGE,
            wraps_grid=True,
            image_ids=False,
            max_input_tokens=2048,
        ),
        Version(
            name="2.5",
            model="openbmb/MiniCPM-Llama3-V-2_5",
            language_model="llama",
            llm_types=("llama3",),
            dialect="llama3",
            terminators=("<|eot_id|>", "<|end_of_text|>"),
            vision_positions="row",
            vision_activation="gelu_pytorch_tanh",
            query_positions=False,
            slice_tags=_TILE_AS_IMAGE,
            wraps_grid=True,
            image_ids=False,
            max_input_tokens=2048,
        ),
        Version(
            name="2.6",
            model="openbmb/MiniCPM-V-2_6",
            language_model="qwen2",
            llm_types=("qwen", "qwen2"),
            dialect="chatml",
            terminators=("<|im_end|>", "<|endoftext|>"),
            vision_positions="grid",
            vision_activation="gelu_pytorch_tanh",
            query_positions=False,
            slice_tags=_TILE_AS_SLICE,
            wraps_grid=False,
            image_ids=True,
            max_input_tokens=8192,
            overflows_in_float16=True,
        ),
        Version(
            name="4.0",
            model="openbmb/MiniCPM-V-4",
            language_model="llama",
            llm_types=("llama", "llama3", "qwen"),  # three official readmes name it in three ways
            dialect="chatml",
            terminators=("<|im_end|>", "<|endoftext|>", "</s>"),  # MiniCPM4's text models end with the last
            vision_positions="grid",
            vision_activation="gelu_pytorch_tanh",
            query_positions=False,
            slice_tags=_TILE_AS_SLICE,
            wraps_grid=False,
            image_ids=True,
            max_input_tokens=8192,
        ),
        Version(
            name="4.5",
            model="openbmb/MiniCPM-V-4_5",
            language_model="qwen3",
            llm_types=("qwen", "qwen3"),
            dialect="qwen3",
            terminators=("<|im_end|>", "<|endoftext|>"),
            vision_positions="grid",
            vision_activation="gelu_pytorch_tanh",
            query_positions=False,
            slice_tags=_TILE_AS_SLICE,
            wraps_grid=False,
            image_ids=True,
            max_input_tokens=16384,
            temporal=True,
            thinking=True,
        ),
    )
}

LLM_TYPES: tuple[str, ...] = tuple(dict.fromkeys(name for version in VERSIONS.values() for name in version.llm_types))
"""Every value that ``--llm_type`` may have."""


def detect_version(config: Mapping[str, Any]) -> Version:
    """Tell which release a checkpoint is from the fields of its ``config.json``.

    MiniCPM-V-2's file has no ``version`` key and is known by fields that only it has, so that its size does not matter.

    Raises:
        CheckpointError: The version is stated but unknown, or is not stated and the file is not MiniCPM-V-2's.
    """
    stated = config.get("version")
    if stated is None:
        if "scale_emb" in config or "vision_encoder" in config:
            return VERSIONS["2.0"]
        raise CheckpointError(
            "config.json: found no 'version' and none of MiniCPM-V-2's own fields (scale_emb, vision_encoder), "
            f"expected 'version' to be one of {', '.join(VERSIONS)}\n  fix: add the version that the weights belong to"
        )
    name = str(stated)
    if name in {"2", "4"}:  # JSON writers drop the fraction of 2.0 and 4.0
        name += ".0"
    if name not in VERSIONS:
        raise CheckpointError(
            f"config.json: found version {stated!r}, expected one of {', '.join(VERSIONS)}\n"
            "  fix: use a checkpoint of a supported release, or a newer minicpmv-finetune"
        )
    return VERSIONS[name]
