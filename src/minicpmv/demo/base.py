"""Writes the base model before training: its configuration files and its random weights.

Its shape is one that llama.cpp and other engines can run: a language model whose width is a multiple of 128, a vision
tower of another width, and a position table of 70 x 70.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from minicpmv.demo.data import PICTURE_PIXELS
from minicpmv.demo.tokenizer import VOCAB_SIZE, special_token_ids, write_tokenizer
from minicpmv.models.configuration import MiniCPMVConfig
from minicpmv.models.modeling import MiniCPMVForConditionalGeneration

__all__ = ["NUM_QUERIES", "write_untrained"]

NUM_QUERIES = 8
_MAX_SLICES = 9
_PATCH_PIXELS = 14

_QUERY_STD = 0.5
"""Standard deviation of the queries: at transformers' usual 0.02 they attend alike, and the resampler learns slowly."""
_POSITION_STD = 1.0
_INIT_STD = 0.08
"""Standard deviation of all other weights; about 1 / sqrt(width) suits so narrow a model better than the usual 0.02."""


def config_fields() -> dict[str, Any]:
    """Return the fields of ``config.json`` in the released layout, with float32 weights."""
    ids = special_token_ids()
    return {
        "version": 2.6,
        "architectures": ["MiniCPMV"],
        "attention_dropout": 0.0,
        "bos_token_id": ids["<|endoftext|>"],  # as released, although the tokenizer's own bos is <|im_start|>
        "eos_token_id": ids["<|im_end|>"],
        "hidden_act": "silu",
        "hidden_size": 128,
        "initializer_range": _INIT_STD,
        "intermediate_size": 256,
        "max_position_embeddings": 2048,
        "max_window_layers": 3,
        "num_attention_heads": 4,
        "num_hidden_layers": 3,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "sliding_window": 131072,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "transformers_version": "4.40.0",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": VOCAB_SIZE,
        "batch_vision_input": True,
        "drop_vision_last_layer": False,
        "image_size": PICTURE_PIXELS,
        "model_type": "minicpmv",
        "patch_size": _PATCH_PIXELS,
        "query_num": NUM_QUERIES,
        "slice_config": {
            "max_slice_nums": _MAX_SLICES,
            "patch_size": _PATCH_PIXELS,
            "scale_resolution": PICTURE_PIXELS,
            "model_type": "minicpmv",
        },
        "slice_mode": True,
        "vision_config": {
            "hidden_size": 96,
            "image_size": 70 * _PATCH_PIXELS,
            "initializer_range": _INIT_STD,
            "intermediate_size": 256,
            "model_type": "siglip",
            "num_attention_heads": 4,
            "num_hidden_layers": 4,
            "patch_size": _PATCH_PIXELS,
        },
    }


_PREPROCESSOR: dict[str, Any] = {
    "image_processor_type": "MiniCPMVImageProcessor",
    "processor_class": "MiniCPMVProcessor",
    "max_slice_nums": _MAX_SLICES,
    "scale_resolution": PICTURE_PIXELS,
    "patch_size": _PATCH_PIXELS,
    "use_image_id": True,
    "image_feature_size": NUM_QUERIES,
    "im_start": "<image>",
    "im_end": "</image>",
    "slice_start": "<slice>",
    "slice_end": "</slice>",
    "unk": "<unk>",
    "im_id_start": "<image_id>",
    "im_id_end": "</image_id>",
    "slice_mode": True,
    "norm_mean": [0.5, 0.5, 0.5],
    "norm_std": [0.5, 0.5, 0.5],
    "version": 2.6,
}


def write_untrained(folder: Path, *, seed: int) -> None:
    """Write a complete model directory with random float32 weights: the start of the base's training."""
    folder.mkdir(parents=True, exist_ok=True)
    fields = config_fields()
    (folder / "config.json").write_text(json.dumps(fields, indent=1) + "\n", encoding="utf-8")
    (folder / "preprocessor_config.json").write_text(json.dumps(_PREPROCESSOR, indent=1) + "\n", encoding="utf-8")
    write_tokenizer(folder)
    torch.manual_seed(seed)
    model = MiniCPMVForConditionalGeneration(MiniCPMVConfig.from_pretrained(folder))
    with torch.no_grad():
        model.resampler.query.normal_(0, _QUERY_STD)
        model.vpm.embeddings.position_embedding.weight.normal_(0, _POSITION_STD)
    model.save_pretrained(folder)
    # Written again, because saving replaces the released file's values by transformers' own.
    (folder / "config.json").write_text(json.dumps(fields, indent=1) + "\n", encoding="utf-8")
    generation = {
        "_from_model_config": True,
        "bos_token_id": fields["bos_token_id"],
        "eos_token_id": fields["eos_token_id"],
        "transformers_version": fields["transformers_version"],
    }
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=1) + "\n", encoding="utf-8")
