"""Digests the settings that decide a model's function: with others, the same weights compute something else.

Read from the parsed config, so that a file that states a default, or is written again by another tool, has the digest
that it had. Left out is what changes no number: paths, precision, versions, names of classes, what training reads.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from minicpmv.errors import CheckpointError
from minicpmv.models.configuration import MiniCPMVConfig

__all__ = ["digest_function"]

_PREPROCESSOR = "preprocessor_config.json"

_OF_MODEL = ("query_num", "scale_emb", "drop_vision_last_layer")
_OF_LANGUAGE = (
    "attention_bias", "attention_multiplier", "embedding_multiplier", "head_dim", "hidden_act", "logits_scaling",
    "max_window_layers", "num_attention_heads", "num_key_value_heads", "residual_multiplier", "rms_norm_eps",
    "rope_parameters", "sliding_window", "tie_word_embeddings", "use_sliding_window",
)  # fmt: skip
_OF_VISION = ("hidden_act", "image_size", "layer_norm_eps", "num_attention_heads", "num_hidden_layers", "patch_size")
_IF_THERE = (
    "downsample_mode", "insert_layer_id", "linear_conv_kernel_dim", "linear_key_head_dim",
    "linear_num_key_heads", "linear_num_value_heads", "linear_value_head_dim", "merge_kernel_size", "merger_times",
    "num_experts_per_tok", "window_kernel_size",
)  # fmt: skip
# With what a file that is silent means, as the image processor has it.
_OF_IMAGES: dict[str, Any] = {
    "max_slice_nums": 9,
    "norm_mean": [0.5, 0.5, 0.5],
    "norm_std": [0.5, 0.5, 0.5],
    "patch_size": 14,
    "scale_resolution": 448,
    "slice_mode": True,
    "use_image_id": None,
}


def digest_function(folder: Path, config: MiniCPMVConfig) -> str:
    """Return the sha256 in hexadecimal.

    Args:
        folder: The model's directory.
        config: What its ``config.json`` says.

    Raises:
        CheckpointError: Its ``preprocessor_config.json`` cannot be read.
    """
    stated: dict[str, Any] = {"version": config.minicpmv_version.name}
    for part, names in ((config, _OF_MODEL), (config.text_config, _OF_LANGUAGE), (config.vision_config, _OF_VISION)):
        stated[type(part).__name__] = {name: getattr(part, name, None) for name in names}
        # Apart, because what a release does not have must not change its digest.
        stated[type(part).__name__] |= {name: getattr(part, name) for name in _IF_THERE if hasattr(part, name)}
    images = _of_images(folder, config)
    stated["images"] = {name: images.get(name, silent) for name, silent in _OF_IMAGES.items()}
    return hashlib.sha256(json.dumps(stated, sort_keys=True, default=str).encode()).hexdigest()


def _of_images(folder: Path, config: MiniCPMVConfig) -> dict[str, Any]:
    """Read how images are cut and scaled: MiniCPM-V-2 says it in its config."""
    file = folder / _PREPROCESSOR
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        released = config.to_dict()
        return released | (released.get("slice_config") or {})
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{file}: found no readable JSON ({error}), expected the model's image settings\n  fix: restore the file"
        ) from error
    return found if isinstance(found, dict) else {}
