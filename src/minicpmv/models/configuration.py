"""MiniCPMVConfig: reads and writes the flat ``config.json`` of the released models.

The released file mixes the language model's fields with its own at the top level. Here they stay there, word for word,
so that what is saved can be read by the official code, vLLM and llama.cpp; beside them stand ``text_config`` and
``vision_config``, the parts as transformers' own configs. Nothing here builds a network.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from transformers import GraniteConfig, PreTrainedConfig, SiglipVisionConfig

from minicpmv.errors import CheckpointError, ConfigError
from minicpmv.releases.file_bounds import CONFIG
from minicpmv.releases.json_bounds import check_fields, quote
from minicpmv.releases.model_files import check_config, naming_faults, read_object
from minicpmv.releases.row import TokenRule, find_code
from minicpmv.releases.table import Version, detect_version

__all__ = ["CALL_ARGUMENTS", "MiniCPMOConfig", "MiniCPMVConfig", "read_model_config"]

# What the released config classes assume where a file is silent.
# Those that save write no auto_map; TRL reads it of every class that transformers itself does not have.
_CLASS_DEFAULTS: dict[str, Any] = {"query_num": 64, "drop_vision_last_layer": True, "auto_map": {}}

CALL_ARGUMENTS = {"attn_implementation", "experts_implementation", "name_or_path", "num_labels", "output_attentions"}
"""Names of what transformers adds to a file's fields when it loads one. Stated in the file itself they have no effect:
which kernel computes is for the machine and the caller."""

# Never mirrored as attributes of the flat config: transformers keeps its own idea of them. Neither is a key that its
# class has an attribute for, or that begins with an underscore: a file could otherwise replace parts of the program.
_BOOKKEEPING = {"model_type", "torch_dtype", "dtype", "transformers_version", "_name_or_path", "name_or_path"}
_OWN = {"minicpmv_version", "text_config", "vision_config"}
_MIRRORED = {"architectures", "tie_word_embeddings"}
_ROPE = {"rope_theta", "rope_scaling"}
# The parts are made from these once; a later change would reach config.json and not the model.
_FIXED = {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
          "head_dim", "scale_depth", "dim_model_base"}  # fmt: skip


class MiniCPMVConfig(PreTrainedConfig):
    """Configuration of every MiniCPM-V release, told apart by ``version``.

    Args:
        fields: The released ``config.json``. Without any, MiniCPM-V-2.6 in its released size is meant.

    Raises:
        CheckpointError: The version is unknown, a value is out of its bounds, or a size is missing or contradicts
            another.
        ConfigError: A size is assigned later on, when the parts have been made of it.
    """

    model_type = "minicpmv"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values", "cache"]
    sub_configs: ClassVar[dict[str, type[PreTrainedConfig]]] = {  # pyright: ignore[reportIncompatibleMethodOverride]
        "text_config": PreTrainedConfig,
        "vision_config": SiglipVisionConfig,
    }

    def __init__(self, **fields: Any) -> None:
        _refuse_other_type(fields, self.model_type)
        own = {key: fields.pop(key) for key in CALL_ARGUMENTS & fields.keys()}
        quantization = fields.pop("quantization_config", None)
        # The files say torch_dtype, transformers says dtype, and callers of either may give torch's own object.
        dtype = fields.pop("dtype", None) or fields.get("torch_dtype")
        if dtype is not None:
            fields["torch_dtype"] = str(dtype).removeprefix("torch.")
        # Copied: transformers completes a rope_scaling that it is given, and the caller's dictionary is not ours.
        is_whole = {"version", "scale_emb", "vision_encoder"} & fields.keys() or "model_type" in fields
        released = copy.deepcopy(fields if is_whole else _DEFAULT | fields)
        released.setdefault("model_type", self.model_type)  # it decides which releases the version may mean
        check_config(released | ({} if quantization is None else {"quantization_config": quantization}))
        self._released: dict[str, Any] = copy.deepcopy(released)
        self.minicpmv_version: Version = detect_version(released)
        mirrored = {key: value for key, value in released.items() if _is_mirrored(key)}
        self._mirrored = frozenset(mirrored)
        for key, default in _CLASS_DEFAULTS.items():
            mirrored.setdefault(key, copy.copy(default))
        with naming_faults("config.json", expected="settings that a model can be made of"):
            self.text_config: PreTrainedConfig = _text_config(released, self.minicpmv_version)
            self.vision_config: SiglipVisionConfig = _vision_config(released, self.minicpmv_version)
            super().__init__(dtype=released.get("torch_dtype"), **mirrored, **own)
        if quantization is not None:
            self.quantization_config = quantization

    @classmethod
    def get_config_dict(
        cls, pretrained_model_name_or_path: Any, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Override transformers: of a file of another type it would take an inner object that names this one.

        That of MiniCPM-o has one: its ``slice_config`` says ``minicpmv``.

        Args:
            pretrained_model_name_or_path: As for ``from_pretrained``.
            kwargs: As for ``from_pretrained``.

        Raises:
            CheckpointError: The file is of another type.
        """
        fields, unused = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        _refuse_other_type(fields, cls.model_type, where=f"{pretrained_model_name_or_path}: ")
        return fields, unused

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Make a config of a file's fields.

        Args:
            config_dict: The fields.
            kwargs: Options of ``from_pretrained``. One that names a field replaces it, before anything is derived from
                the field; of a field with fields of its own, such as ``vision_config``, only those that are given.
        """
        fields = {key: value for key, value in config_dict.items() if key not in CALL_ARGUMENTS}
        check_fields(config_dict, CONFIG, where="config.json", fix="use the config.json that belongs to the weights")
        for key in (fields.keys() | _CLASS_DEFAULTS.keys()) & kwargs.keys() - {"torch_dtype", "dtype"}:
            value, given = fields.get(key), kwargs.pop(key)
            fields[key] = value | given if isinstance(value, dict) and isinstance(given, dict) else given
        return super().from_dict(fields, **kwargs)

    @property
    def token_rule(self) -> TokenRule:
        """How many image tokens a slice has."""
        return self.minicpmv_version.reading.token_rule(None, cast("Any", self).query_num)

    @property
    def vocab_size(self) -> int:
        """Tokens. The language model's, which transformers changes when it resizes the embeddings."""
        return cast("Any", self.text_config).vocab_size

    @vocab_size.setter
    def vocab_size(self, value: int) -> None:
        cast("Any", self.text_config).vocab_size = value

    def __setattr__(self, key: str, value: Any) -> None:
        if key in _FIXED and getattr(self, key, value) != value:
            raise ConfigError(
                f"{key}: found {value} for a config that was made with {getattr(self, key)}, expected no change\n"
                f"  fix: state it when the config is made: AutoConfig.from_pretrained(path, {key}={value})"
            )
        super().__setattr__(key, value)

    def to_dict(self) -> dict[str, Any]:
        """The released layout: the fields that were read, with what was changed since, and nothing of transformers'."""
        fields = copy.deepcopy(self._released)
        # transformers would write its own class name into architectures; other engines look for the released one.
        for key in self._mirrored - {"architectures"}:
            # transformers keeps what concerns generation, such as use_cache, out of a model's config.
            fields[key] = copy.deepcopy(getattr(self, key, fields[key]))
        fields["vocab_size"] = self.vocab_size
        fields["model_type"] = self.model_type
        if self.dtype is not None:
            fields["torch_dtype"] = str(self.dtype).removeprefix("torch.")
        quantization = getattr(self, "quantization_config", None)
        if quantization is not None:
            fields["quantization_config"] = quantization if isinstance(quantization, dict) else quantization.to_dict()
        return fields

    def to_diff_dict(self) -> dict[str, Any]:
        """Same as :meth:`to_dict`: a released file is complete, not a difference to some default."""
        return self.to_dict()


class MiniCPMOConfig(MiniCPMVConfig):
    """Configuration of the MiniCPM-o releases.

    What the file says of hearing and speech (``audio_config``, ``tts_config``, ``init_audio`` ...) is written back as
    it was read, and means nothing here.
    """

    model_type = "minicpmo"

    def __init__(self, **fields: Any) -> None:  # stated, or transformers would make another one
        super().__init__(**fields)


def read_model_config(folder: Path) -> MiniCPMVConfig:
    """Read the config of a model's directory, by the class that its release's row names.

    Raises:
        CheckpointError: As ``MiniCPMVConfig``.
    """
    fields = read_object(folder / "config.json", expected="a model's", fix="name the directory that holds it")
    return find_code(detect_version(fields).network.config).from_pretrained(folder)


def _refuse_other_type(fields: Mapping[str, Any], expected: str, *, where: str = "") -> None:
    found = fields.get("model_type")
    if found not in (None, expected):
        raise CheckpointError(
            f"{where}config.json: model_type: found {quote(found)}, expected {quote(expected)}\n"
            "  fix: load it with AutoConfig, AutoModelForImageTextToText or minicpmv, which go by model_type"
        )


def _is_mirrored(key: str) -> bool:
    """Whether a field of the file becomes an attribute of the config."""
    if key in _BOOKKEEPING | _ROPE | _OWN | {"vocab_size"}:
        return False
    return key in _MIRRORED or not (key.startswith("_") or hasattr(MiniCPMVConfig, key))


def _text_config(released: dict[str, Any], version: Version) -> PreTrainedConfig:
    config_class: type[PreTrainedConfig] = find_code(version.network.language_model).config_class
    known = {field.name for field in dataclasses.fields(config_class)} | _ROPE
    known -= {"architectures", "transformers_version", "dtype"}
    fields = {key: value for key, value in released.items() if key in known}
    if fields.get("rope_scaling") is None:
        fields.pop("rope_scaling", None)
    fields.setdefault("tie_word_embeddings", False)
    if config_class is GraniteConfig:
        # MiniCPM-2B in Granite's words. embedding_multiplier stays 1: Granite would also scale the image features,
        # which the released model does not, so the joining model scales the text embeddings itself. Logits likewise.
        hidden, heads = fields["hidden_size"], fields["num_attention_heads"]
        fields["residual_multiplier"] = released["scale_depth"] / fields["num_hidden_layers"] ** 0.5
        fields["attention_multiplier"] = (hidden // heads) ** -0.5
        fields["logits_scaling"] = hidden / released["dim_model_base"]
        fields["embedding_multiplier"] = 1.0
    return config_class(**fields, dtype=_dtype(released.get("torch_dtype")))


def _vision_config(released: dict[str, Any], version: Version) -> SiglipVisionConfig:
    known = {field.name for field in dataclasses.fields(SiglipVisionConfig)} - {"architectures", "transformers_version"}
    stated: dict[str, Any] = released.get("vision_config") or {}
    fields = {key: value for key, value in stated.items() if key in known - {"dtype"}}
    fields = {**version.network.unstated_vision, **fields}
    fields.setdefault("hidden_act", version.network.vision_activation)
    if released.get("drop_vision_last_layer", _CLASS_DEFAULTS["drop_vision_last_layer"]):
        fields["num_hidden_layers"] -= 1
    return SiglipVisionConfig(**fields, dtype=_dtype(released.get("torch_dtype")))


def _dtype(name: str | None) -> torch.dtype | None:
    return None if name is None else getattr(torch, name.removeprefix("torch."))


# MiniCPM-V-2.6, openbmb/MiniCPM-V-2_6 config.json
_DEFAULT: dict[str, Any] = {
    "version": 2.6,
    "architectures": ["MiniCPMV"],
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "hidden_act": "silu",
    "hidden_size": 3584,
    "initializer_range": 0.02,
    "intermediate_size": 18944,
    "max_position_embeddings": 32768,
    "max_window_layers": 28,
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "sliding_window": 131072,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.40.0",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 151666,
    "batch_vision_input": True,
    "drop_vision_last_layer": False,
    "image_size": 448,
    "patch_size": 14,
    "query_num": 64,
    "slice_config": {"max_slice_nums": 9, "patch_size": 14, "model_type": "minicpmv"},
    "slice_mode": True,
    "vision_config": {
        "hidden_size": 1152,
        "image_size": 980,
        "intermediate_size": 4304,
        "model_type": "siglip",
        "num_attention_heads": 16,
        "num_hidden_layers": 27,
        "patch_size": 14,
    },
}
