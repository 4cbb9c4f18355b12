"""Sizes of the released models, for whoever builds one without its weights."""

from __future__ import annotations

from typing import Any

__all__ = ["NATIVE", "NAVIT", "PRESUMED", "RELEASED"]

# What the released config.json files state, without what no size depends on.
NAVIT: dict[str, Any] = {
    "hidden_size": 1152,
    "image_size": 980,
    "intermediate_size": 4304,
    "num_attention_heads": 16,
    "num_hidden_layers": 27,
    "patch_size": 14,
}
RELEASED: dict[str, dict[str, Any]] = {
    "2.0": {
        "hidden_size": 2304,
        "intermediate_size": 5760,
        "num_hidden_layers": 40,
        "num_attention_heads": 36,
        "num_key_value_heads": 36,
        "vocab_size": 122753,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
        "scale_emb": 12,
        "dim_model_base": 256,
        "scale_depth": 1.4,
        "vision_encoder": "vit_so400m_patch14_siglip_384.webli",
        "drop_vision_last_layer": True,
        "query_num": 64,
    },
    "2.5": {
        "version": "2.5",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": False,
        "drop_vision_last_layer": False,
        "query_num": 96,
        "vision_config": NAVIT | {"model_type": "idefics2"},
    },
    "2.6": {
        "version": 2.6,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 151666,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "max_position_embeddings": 32768,
        "sliding_window": 131072,
        "use_sliding_window": False,
        "tie_word_embeddings": False,
        "drop_vision_last_layer": False,
        "query_num": 64,
        "vision_config": NAVIT | {"model_type": "siglip"},
    },
    "4.5": {
        "version": 4.5,
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151748,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000,
        "max_position_embeddings": 40960,
        "tie_word_embeddings": False,
        "drop_vision_last_layer": False,
        "query_num": 64,
        "batch_3d_resampler": True,
        "vision_config": NAVIT | {"model_type": "siglip"},
    },
}

# MiniCPM-V-4's file was not at hand. llama.cpp's converter states its hidden size; with the rest the whole model has
# 4.05 billion parameters, of the "4.1B" that its readme states. Good for shapes, not for a test of its index.
PRESUMED: dict[str, dict[str, Any]] = {
    "4.0": {
        "version": 4.0,
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 2,
        "head_dim": 128,
        "vocab_size": 73448,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "max_position_embeddings": 32768,
        "tie_word_embeddings": False,
        "drop_vision_last_layer": False,
        "query_num": 64,
        "vision_config": NAVIT | {"model_type": "siglip"},
    },
}


_HYBRID: dict[str, Any] = {
    "head_dim": 256,
    "num_key_value_heads": 2,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 16,
    "full_attention_interval": 4,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10000000,
        "partial_rotary_factor": 0.25,
        "mrope_section": [11, 11, 10],
        "mrope_interleaved": True,
    },
}

# Of published pages and ports: the files were not at hand.
NATIVE: dict[str, dict[str, Any]] = {
    "4.6": {
        "model_type": "minicpmv4_6",
        "insert_layer_id": 6,
        "image_size": 1120,
        "tie_word_embeddings": True,
        "downsample_mode": "16x",
        "vision_config": NAVIT | {"model_type": "minicpmv4_6_vision", "insert_layer_id": 6},
        "text_config": _HYBRID
        | {
            "model_type": "qwen3_5_text",
            "hidden_size": 1024,
            "intermediate_size": 3584,
            "num_hidden_layers": 24,
            "num_attention_heads": 8,
            "linear_num_value_heads": 16,
            "vocab_size": 248094,
            "tie_word_embeddings": True,
        },
    },
    "4.7-A3B": {
        "model_type": "minicpmv4_7",
        "insert_layer_id": 6,
        "image_size": 1120,
        "tie_word_embeddings": False,
        "downsample_mode": "16x",
        "vision_config": NAVIT | {"model_type": "minicpmv4_7_vision", "insert_layer_id": 6},
        "text_config": _HYBRID
        | {
            "model_type": "qwen3_5_moe_text",
            "hidden_size": 2048,
            "num_hidden_layers": 40,
            "num_attention_heads": 16,
            "linear_num_value_heads": 32,
            "moe_intermediate_size": 512,
            "shared_expert_intermediate_size": 512,
            "num_experts": 256,
            "num_experts_per_tok": 8,
            "vocab_size": 248320,
            "tie_word_embeddings": False,
        },
    },
}
