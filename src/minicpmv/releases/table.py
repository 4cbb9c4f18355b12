"""One table: what differs between the released MiniCPM-V versions.

Everything a checkpoint's own config states (sizes, vocabulary, slicing) is read from there; this table holds only what
the version number implies. No other module compares versions: it asks a field of the row (``row.py``). The table needs
neither torch nor transformers, so that reading and checking data stays light.
Source: the released configs and modelling files, section by section in ``docs/versions.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from minicpmv.errors import CheckpointError
from minicpmv.releases.row import Answering, Engines, Gguf, Markup, Network, Reading, Tags, Version

__all__ = [
    "LLM_TYPES",
    "UNSTATED",
    "VERSIONS",
    "Version",
    "detect_version",
    "is_model_type",
    "register",
    "version_named",
]

_IMAGE: Tags = ("<image>", "</image>")
_SLICE: Tags = ("<slice>", "</slice>")
_WRAPPED_GRID = Markup(tile=_IMAGE, grid=_SLICE)
_NUMBERED = Markup(tile=_SLICE, number=("<image_id>", "</image_id>"))
_CHAT = "minicpmv.processing.text.chat"
_TOKENIZERS = "minicpmv.processing.released_tokenizers"
_NO_LLAMA_CPP = "llama.cpp has no MiniCPM-V of this version"

_ROWS: dict[str, Version] = {
    version.name: version
    for version in (
        Version(
            name="2.0",
            also_written=("2",),
            own_fields=("scale_emb", "vision_encoder"),
            model="openbmb/MiniCPM-V-2",
            llm_types=("minicpm",),
            reading=Reading(
                dialect=f"{_CHAT}:MINICPM",
                tokenizer=f"{_TOKENIZERS}:LlamaTokenizerWrapper",
                terminators=("</s>",),
                markup=_WRAPPED_GRID,
            ),
            network=Network(
                language_model="transformers:GraniteForCausalLM",
                tower="minicpmv.models.networks.siglip:TimmVisionTower",
                vision_positions="interpolated",
                vision_activation="gelu",
                query_positions=True,
                needed_fields=("scale_emb", "scale_depth", "dim_model_base"),
                # The file only names its timm tower: SoViT-400m of SigLIP at 384 pixels.
                unstated_vision={
                    "hidden_size": 1152,
                    "intermediate_size": 4304,
                    "num_hidden_layers": 27,
                    "num_attention_heads": 16,
                    "image_size": 384,
                    "patch_size": 14,
                },
            ),
            answering=Answering(max_input_tokens=2048, max_new_tokens=1024, returns_history=True),
            engines=Engines(gguf=_NO_LLAMA_CPP),
        ),
        Version(
            name="2.5",
            model="openbmb/MiniCPM-Llama3-V-2_5",
            llm_types=("llama3",),
            reading=Reading(
                dialect=f"{_CHAT}:LLAMA3",
                tokenizer=f"{_TOKENIZERS}:MiniCPMVTokenizerFast",
                terminators=("<|eot_id|>", "<|end_of_text|>"),
                markup=_WRAPPED_GRID,
            ),
            network=Network(language_model="transformers:LlamaForCausalLM", vision_positions="row"),
            answering=Answering(max_input_tokens=2048, max_new_tokens=1024),
            engines=Engines(gguf=Gguf(version=2, architecture="LLAMA")),
        ),
        Version(
            name="2.6",
            model="openbmb/MiniCPM-V-2_6",
            llm_types=("qwen", "qwen2"),
            reading=Reading(
                dialect=f"{_CHAT}:CHATML",
                tokenizer=f"{_TOKENIZERS}:MiniCPMVTokenizerFast",
                terminators=("<|im_end|>", "<|endoftext|>"),
                markup=_NUMBERED,
            ),
            network=Network(
                language_model="transformers:Qwen2ForCausalLM", vision_positions="grid", overflows_in_float16=True
            ),
            answering=Answering(max_input_tokens=8192, max_new_tokens=2048),
            engines=Engines(gguf=Gguf(version=3, architecture="QWEN2")),
        ),
        Version(
            name="4.0",
            also_written=("4",),
            model="openbmb/MiniCPM-V-4",
            llm_types=("llama", "llama3", "qwen"),  # three official readmes name it in three ways
            reading=Reading(
                dialect=f"{_CHAT}:CHATML",
                tokenizer=f"{_TOKENIZERS}:MiniCPMVTokenizerFast",
                terminators=("<|im_end|>", "<|endoftext|>", "</s>"),  # MiniCPM4's text models end with the last
                markup=_NUMBERED,
            ),
            network=Network(language_model="transformers:LlamaForCausalLM", vision_positions="grid"),
            answering=Answering(max_input_tokens=8192, max_new_tokens=2048),
            engines=Engines(gguf=Gguf(version=5, architecture="LLAMA")),
        ),
        Version(
            name="4.5",
            model="openbmb/MiniCPM-V-4_5",
            llm_types=("qwen", "qwen3"),
            reading=Reading(
                dialect=f"{_CHAT}:QWEN3",
                tokenizer=f"{_TOKENIZERS}:MiniCPMVTokenizerFast",
                terminators=("<|im_end|>", "<|endoftext|>"),
                markup=_NUMBERED,
                temporal=True,
                thinking=True,
            ),
            network=Network(language_model="transformers:Qwen3ForCausalLM", vision_positions="grid"),
            answering=Answering(max_input_tokens=16384, max_new_tokens=2048, repetition_penalty=1.03),
            engines=Engines(gguf=Gguf(version=6, architecture="QWEN3")),
        ),
    )
}

VERSIONS: Mapping[str, Version] = MappingProxyType(_ROWS)
"""Every release by its name, the oldest first."""

UNSTATED: Version = next(version for version in _ROWS.values() if version.own_fields)
"""The release whose files state no version."""

LLM_TYPES: tuple[str, ...] = tuple(dict.fromkeys(name for version in _ROWS.values() for name in version.llm_types))
"""Every value that ``--llm_type`` may have."""


def register(version: Version) -> Callable[[], None]:
    """Add a release, as tests do to show that a new one needs a row and what the row names, and no other change.

    Returns:
        What takes it out again.
    """
    assert version.name not in _ROWS, f"{version.name} is in the table"
    _ROWS[version.name] = version

    def remove() -> None:
        del _ROWS[version.name]

    return remove


def version_named(stated: object) -> Version | None:
    """Return the release that a file means by a version; None if there is none."""
    return next((row for row in VERSIONS.values() if str(stated) in (row.name, *row.also_written)), None)


def is_model_type(stated: object) -> bool:
    """Whether a ``model_type`` of a ``config.json`` is that of a release."""
    return any(row.network.model_type == stated for row in VERSIONS.values())


def detect_version(config: Mapping[str, Any]) -> Version:
    """Tell which release a checkpoint is from the fields of its ``config.json``.

    MiniCPM-V-2's file has no ``version`` key and is known by fields that only it has, so that its size does not matter.

    Raises:
        CheckpointError: The version is stated but unknown, or is not stated and the file is not MiniCPM-V-2's.
    """
    stated = config.get("version")
    if stated is None:
        if any(field in config for field in UNSTATED.own_fields):
            return UNSTATED
        raise CheckpointError(
            "config.json: found no 'version' and none of MiniCPM-V-2's own fields "
            f"({', '.join(UNSTATED.own_fields)}), expected 'version' to be one of {', '.join(VERSIONS)}\n"
            "  fix: add the version that the weights belong to"
        )
    version = version_named(stated)
    if version is not None:
        return version
    raise CheckpointError(
        f"config.json: found version {stated!r}, expected one of {', '.join(VERSIONS)}\n"
        "  fix: use a checkpoint of a supported release, or a newer minicpmv-finetune"
    )
