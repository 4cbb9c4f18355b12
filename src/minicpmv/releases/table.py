"""One table: what differs between the released MiniCPM-V versions.

Everything a checkpoint's own config states (sizes, vocabulary, slicing) is read from there; this table holds only what
the version number implies. No other module compares versions: it asks a field of the row (``row.py``). The table needs
neither torch nor transformers, so that reading and checking data stays light.
Source: the released configs and modelling files, section by section in ``docs/versions.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from minicpmv.errors import CheckpointError
from minicpmv.releases.row import (
    Answering,
    Engines,
    FilmRule,
    Gguf,
    Markup,
    Network,
    OwnConverter,
    Parts,
    Reading,
    Tags,
    Version,
)
from minicpmv.releases.unknown import describe_unknown

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
_DIALECTS = "minicpmv.processing.text.dialects"
_PROCESSOR = "minicpmv.processing.processor"
_TOKENIZERS = "minicpmv.processing.tokens.released_tokenizers"
_SAMPLING = "minicpmv.processing.films.sampling"
_64_BY_STEPS = FilmRule(sampling=f"{_SAMPLING}:by_steps", max_frames=64)
_128_BY_SECONDS = FilmRule(sampling=f"{_SAMPLING}:by_seconds", max_frames=128)
_OMNI = "minicpmo"
_SPEECH = ("apm.", "audio_projection_layer.", "tts.")
"""Hearing and speech of the o models."""
_SPOKEN = (
    r"<\|/?(audio|spk|tts|listen|speak|interrupt|vad|emotion|speed|pitch|turn|chunk|timbre)\w*\|>"
    r"|</?(unit|answer|focus|line|perception|source_image|image_save_to)>"
)
_READS_AS_OMNI = Reading(
    dialect=f"{_DIALECTS}:CHATML",
    processor=f"{_PROCESSOR}:MiniCPMOProcessor",
    tokenizer=f"{_TOKENIZERS}:MiniCPMOTokenizerFast",
    terminators=("<|im_end|>", "<|endoftext|>", "<|tts_eos|>"),
    markup=_NUMBERED,
    films=_64_BY_STEPS,
    never_text=_SPOKEN,
)
_NETWORK_OF_OMNI = Network(
    model_type=_OMNI,
    config="minicpmv.models.configuration:MiniCPMOConfig",
    model="minicpmv.models.modeling:MiniCPMOForConditionalGeneration",
    language_model="transformers:Qwen2ForCausalLM",
    vision_positions="grid",
    overflows_in_float16=True,
    carried=_SPEECH,
    whole_folders=("assets",),
)
_ENGINES_OF_OMNI = Engines(
    gguf="llama.cpp's converter knows no MiniCPM-o",
    vllm="vLLM's class for it, MiniCPMO, also hears, and needs the config, tokenizer and processor in the directory's "
    "own code, which this package never runs: start vLLM without plugins, `VLLM_PLUGINS= vllm serve ... "
    "--trust-remote-code`",
)

_TILES_4_6 = replace(_NUMBERED, slot="<|image_pad|>", frame_slot="<|video_pad|>", numbers_films=True)
_READS_AS_4_6 = Reading(
    dialect=f"{_DIALECTS}:QWEN3_5",
    tokenizer=f"{_TOKENIZERS}:NativeTokenizer",
    terminators=("<|im_end|>", "<|endoftext|>"),
    markup=_TILES_4_6,
    token_side=4,
    downsample_modes={"16x": 4, "4x": 2},
    file_classes=("MiniCPMV4_6ImageProcessor", "MiniCPMV4_6Processor"),
    films=_128_BY_SECONDS,
    thinking=True,
)
_READS_AS_4_7 = replace(
    _READS_AS_4_6,
    markup=replace(_TILES_4_6, numbers_films=False),
    file_classes=("MiniCPMV4_6ImageProcessor", "MiniCPMV4_7Processor"),
    positions="minicpmv.processing.pictures.canvas:place_on_canvas",
)
_LAYER = r"model\.language_model\.layers\.\d+"
_MIXERS = r"self_attn\.(q_proj|k_proj|v_proj|o_proj)|linear_attn\.(in_proj_qkv|in_proj_z|out_proj)"
"""What looks from a token to others, in layers of either kind."""
_LORA_ON_4_6 = {
    "attention": rf"{_LAYER}\.({_MIXERS})",
    "all-linear": rf"{_LAYER}\.({_MIXERS}|mlp\.(gate_proj|up_proj|down_proj))",
    "vision-attention": r"model\.vision_tower\.encoder\.layers\.\d+\.self_attn\.(q_proj|k_proj|v_proj|out_proj)",
    "vision-all-linear": r"model\.vision_tower\.(encoder\.layers\.\d+|vit_merger)\..*(_proj|fc1|fc2|linear_1|linear_2)",
    "resampler": r"model\.merger\.mlp\.\d+\.(linear_1|linear_2)",
}
_LORA_ON_EXPERTS = _LORA_ON_4_6 | {
    "all-linear": rf"{_LAYER}\.({_MIXERS}|mlp\.shared_expert\.(gate_proj|up_proj|down_proj))"
}
_ANSWERS_OF_4_6 = Answering(max_input_tokens=32768, max_new_tokens=2048, repetition_penalty=1.0)
_NETWORK_4_6 = Network(
    model_type="minicpmv4_6",
    config="minicpmv.models.native.configuration:MiniCPMV4_6Config",
    model="minicpmv.models.native.modeling:MiniCPMV4_6ForConditionalGeneration",
    language_model="transformers:Qwen3_5ForCausalLM",
    tower="minicpmv.models.native.tower:NativeTower",
    connector="minicpmv.models.native.tower:NativeMerger",
    vision_positions="grid",
    parts=Parts(
        tower="model.vision_tower",
        connector="model.merger",
        language_model="model.language_model",
        body="model.language_model",
        embeddings="model.language_model.embed_tokens",
        head="lm_head",
        layers="model.language_model.layers",
    ),
    lora_on=_LORA_ON_4_6,
    lora_notices={},
    needed_fields=("text_config", "vision_config"),
    may_stay_float32=(".linear_attn.A_log", ".linear_attn.norm.weight"),
    never_packed=("in_proj_a", "in_proj_b"),
    undecayed=(".linear_attn.A_log",),
    carried=("mtp.",),
)
_NETWORK_4_7 = replace(
    _NETWORK_4_6,
    model_type="minicpmv4_7",
    config="minicpmv.models.native.configuration:MiniCPMV4_7Config",
    model="minicpmv.models.native.modeling:MiniCPMV4_7ForConditionalGeneration",
)
_VLLM_HAS_ITS_OWN = (
    "vLLM's class for it reads transformers' own files, and needs nothing of this package: start vLLM without plugins, "
    "`VLLM_PLUGINS= vllm serve ...`"
)
_ENGINES_OF_4_6 = Engines(
    gguf=OwnConverter(architecture="MiniCPMV4_6ForConditionalGeneration", since="b9049"),
    vllm=f"{_VLLM_HAS_ITS_OWN}; vLLM has it since 0.22.0",
)
_ENGINES_OF_4_7 = Engines(
    gguf=OwnConverter(
        architecture="MiniCPMV4_7ForConditionalGeneration",
        since="a version newer than the one in llama-cpp-python 0.3.36, whose converter lacks it",
    ),
    vllm=f"{_VLLM_HAS_ITS_OWN}; which vLLM is the first to have it is not known here",
)
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
                dialect=f"{_DIALECTS}:MINICPM",
                tokenizer=f"{_TOKENIZERS}:LlamaTokenizerWrapper",
                terminators=("</s>",),
                markup=_WRAPPED_GRID,
                no_films="it was trained on single pictures",
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
                dialect=f"{_DIALECTS}:LLAMA3",
                tokenizer=f"{_TOKENIZERS}:MiniCPMVTokenizerFast",
                terminators=("<|eot_id|>", "<|end_of_text|>"),
                markup=_WRAPPED_GRID,
                no_films="it was trained on single pictures",
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
                dialect=f"{_DIALECTS}:CHATML",
                tokenizer=f"{_TOKENIZERS}:MiniCPMVTokenizerFast",
                terminators=("<|im_end|>", "<|endoftext|>"),
                markup=_NUMBERED,
                films=_64_BY_STEPS,
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
                dialect=f"{_DIALECTS}:CHATML",
                tokenizer=f"{_TOKENIZERS}:MiniCPMVTokenizerFast",
                terminators=("<|im_end|>", "<|endoftext|>", "</s>"),  # MiniCPM4's text models end with the last
                markup=_NUMBERED,
                films=_64_BY_STEPS,
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
                dialect=f"{_DIALECTS}:QWEN3",
                tokenizer=f"{_TOKENIZERS}:MiniCPMVTokenizerFast",
                terminators=("<|im_end|>", "<|endoftext|>"),
                markup=_NUMBERED,
                films=FilmRule(
                    sampling=f"{_SAMPLING}:in_groups",
                    fps=3.0,
                    max_frames=540,
                    max_blocks=180,
                    max_group=6,
                    has_time=True,
                ),
                temporal=True,
                thinking=True,
            ),
            network=Network(language_model="transformers:Qwen3ForCausalLM", vision_positions="grid"),
            answering=Answering(max_input_tokens=16384, max_new_tokens=2048, repetition_penalty=1.03),
            engines=Engines(gguf=Gguf(version=6, architecture="QWEN3")),
        ),
        Version(
            name="4.6",
            model="openbmb/MiniCPM-V-4.6",
            may_leave_version_out=True,
            llm_types=("qwen3_5", "qwen"),
            reading=_READS_AS_4_6,
            network=_NETWORK_4_6,
            answering=_ANSWERS_OF_4_6,
            engines=_ENGINES_OF_4_6,
        ),
        Version(
            name="4.7",
            model="openbmb/MiniCPM-V-4.7-1B",
            may_leave_version_out=True,
            text_model_type="qwen3_5_text",
            llm_types=("qwen3_5", "qwen"),
            reading=_READS_AS_4_7,
            network=_NETWORK_4_7,
            answering=_ANSWERS_OF_4_6,
            engines=_ENGINES_OF_4_7,
        ),
        Version(
            name="4.7-A3B",
            model="openbmb/MiniCPM-V-4.7-35B-A3B",
            may_leave_version_out=True,
            text_model_type="qwen3_5_moe_text",
            llm_types=("qwen3_5_moe", "qwen"),
            reading=_READS_AS_4_7,
            network=replace(
                _NETWORK_4_7,
                language_model="transformers:Qwen3_5MoeForCausalLM",
                lora_on=_LORA_ON_EXPERTS,
                lora_parameters={"experts": rf"{_LAYER}\.mlp\.experts\.(gate_up_proj|down_proj)"},
            ),
            answering=_ANSWERS_OF_4_6,
            engines=_ENGINES_OF_4_7,
        ),
        Version(
            name="o-2.6",
            also_written=("2.6",),
            model="openbmb/MiniCPM-o-2_6",
            may_leave_version_out=True,
            llm_types=("qwen", "qwen2"),
            reading=_READS_AS_OMNI,
            network=_NETWORK_OF_OMNI,
            answering=Answering(max_input_tokens=8192, max_new_tokens=2048),
            engines=_ENGINES_OF_OMNI,
        ),
        Version(
            name="o-4.5",
            also_written=("4.5",),
            model="openbmb/MiniCPM-o-4_5",
            llm_types=("qwen", "qwen3"),
            reading=replace(_READS_AS_OMNI, dialect=f"{_DIALECTS}:QWEN3", thinking=True),
            network=replace(
                _NETWORK_OF_OMNI, language_model="transformers:Qwen3ForCausalLM", overflows_in_float16=False
            ),
            answering=Answering(max_input_tokens=8192, max_new_tokens=4096, repetition_penalty=1.03),
            engines=_ENGINES_OF_OMNI,
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


def version_named(stated: object, model_type: object = None) -> Version | None:
    """Return the release that a file means by a version; None if there is none.

    Args:
        stated: The version.
        model_type: That of the file; None for the one that most releases have, or a row's own name.
    """
    if model_type is None and str(stated) in VERSIONS:
        return VERSIONS[str(stated)]
    return _meant_by(stated, _rows_of(UNSTATED.network.model_type if model_type is None else model_type))


def is_model_type(stated: object) -> bool:
    """Whether a ``model_type`` of a ``config.json`` is that of a release."""
    return bool(_rows_of(stated))


def detect_version(config: Mapping[str, Any]) -> Version:
    """Tell which release a checkpoint is from the fields of its ``config.json``.

    Where one ``model_type`` serves several releases, the stated version decides, or the kind of language model. A file
    without a version is known by fields that only its release has, so that its size does not matter.

    Raises:
        CheckpointError: The version is stated but unknown, or is not stated and the file is not one that may leave it
            out.
    """
    rows = _rows_of(config.get("model_type", UNSTATED.network.model_type))
    if not rows:
        kinds = dict.fromkeys(row.network.model_type for row in VERSIONS.values())
        raise CheckpointError(
            f"config.json: found model_type {config.get('model_type')!r}, expected one of {', '.join(kinds)}\n"
            f"  fix: {describe_unknown(config, VERSIONS.values())}"
        )
    text = config.get("text_config")
    kind = text.get("model_type") if isinstance(text, Mapping) else None
    rows = [row for row in rows if row.text_model_type in (None, kind)] or rows
    stated = config.get("version")
    if stated is None:
        silent = [row for row in rows if row.may_leave_version_out or any(field in config for field in row.own_fields)]
        if silent:
            return silent[0]
        raise CheckpointError(
            "config.json: found no 'version' and none of MiniCPM-V-2's own fields "
            f"({', '.join(UNSTATED.own_fields)}), expected 'version' to be one of {_names(rows)}\n"
            "  fix: add the version that the weights belong to"
        )
    version = _meant_by(stated, rows)
    if version is not None:
        return version
    raise CheckpointError(
        f"config.json: found version {stated!r}, expected one of {_names(rows)}\n"
        f"  fix: {describe_unknown(config, VERSIONS.values())}"
    )


def _rows_of(model_type: object) -> list[Version]:
    return [row for row in VERSIONS.values() if row.network.model_type == model_type]


def _meant_by(stated: object, rows: Sequence[Version]) -> Version | None:
    return next((row for row in rows if str(stated) in (row.name, *row.also_written)), None)


def _names(rows: Sequence[Version]) -> str:
    return ", ".join(row.name for row in rows)
