"""One table for each JSON file of a checkpoint: what every value that is read of it may be.

Bounds are generous: ten to a hundred times what any release has, and low enough that nothing built of them takes
minutes or the machine's memory before its weights are compared. Values that would choose code, a kernel or a name on a
hub are limited to what needs none. How values fit each other is in ``model_files``.
"""

from __future__ import annotations

from minicpmv.releases.json_bounds import (
    FLAG,
    Digits,
    Either,
    ListOf,
    Mapped,
    Nothing,
    Number,
    Object,
    OneOf,
    Rule,
    Text,
    or_null,
    whole,
)

__all__ = ["ADAPTER", "ADDED_TOKENS", "CONFIG", "GENERATION", "PREPROCESSOR", "SPECIAL_TOKENS", "TOKENIZER_CONFIG"]

_ID = Either((whole(-1, 4_000_000), OneOf((None,))))
_IDS = Either((whole(-1, 4_000_000), ListOf(whole(-1, 4_000_000), most=1000), OneOf((None,))))
_LAYERS = whole(1, 1000)
_WIDTH = whole(1, 65_536)
_SHARE = Number(0, 1)
_FEW = Number(-1e9, 1e9)
_NAMES = ListOf(Text(500), most=100_000)
_ACTIVATION = OneOf(
    ("silu", "swish", "gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "quick_gelu", "relu", "relu2", "tanh")
)
_DTYPE = OneOf(
    (None, *(f"{module}{name}" for module in ("", "torch.") for name in ("float32", "float16", "bfloat16", "float64")))
)
_KERNEL = OneOf(("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention", None))
"""Where a kernel may be stated. It is not used: the caller chooses. Another would be fetched from a hub and run."""
_KERNELS: dict[str, Rule] = {
    "attn_implementation": _KERNEL,
    "_attn_implementation": _KERNEL,
    "_attn_implementation_internal": _KERNEL,
    "experts_implementation": OneOf((None, "eager")),
    "_experts_implementation": OneOf((None, "eager")),
}

_AUTO_MAP = or_null(Mapped(Either((Text(500), ListOf(or_null(Text(500)), most=10), OneOf((None,)))), most=100))
"""Which code a directory would like to be loaded by. transformers looks at it; none is."""

_ROPE: dict[str, Rule] = {
    "rope_type": OneOf(("default", "linear", "dynamic", "yarn", "longrope", "llama3")),
    "type": OneOf(("default", "linear", "dynamic", "yarn", "longrope", "su", "llama3", "mrope")),
    "rope_theta": Number(0, 1e15, is_above=True),
    "factor": Number(1, 10_000),
    "original_max_position_embeddings": whole(1, 2**30),
    "attention_factor": or_null(Number(0, 1000)),
    "partial_rotary_factor": Number(0, 1, is_above=True),
    "beta_fast": Number(0, 10_000),
    "beta_slow": Number(0, 10_000),
    "low_freq_factor": Number(0, 10_000, is_above=True),
    "high_freq_factor": Number(0, 10_000, is_above=True),
    "mscale": Number(0, 1000),
    "mscale_all_dim": Number(0, 1000),
    "truncate": FLAG,
    "short_factor": ListOf(Number(0, 1e6, is_above=True), most=4096),
    "long_factor": ListOf(Number(0, 1e6, is_above=True), most=4096),
}

_VISION: dict[str, Rule] = {
    "hidden_size": _WIDTH,
    "intermediate_size": whole(1, 2**20),
    "num_hidden_layers": _LAYERS,
    "num_attention_heads": whole(1, 1024),
    "num_channels": OneOf((3,)),
    "image_size": whole(1, 16_384),
    "patch_size": whole(1, 256),
    "hidden_act": _ACTIVATION,
    "layer_norm_eps": Number(0, 0.1),
    "attention_dropout": _SHARE,
    **_KERNELS,
}

_SLICING: dict[str, Rule] = {
    "max_slice_nums": whole(1, 1000),
    "scale_resolution": whole(1, 8192),
    "patch_size": whole(1, 256),
}

CONFIG: dict[str, Rule] = {
    "model_type": Text(100),
    "version": Either((Text(20), Number(0, 1000), OneOf((None,)))),
    "auto_map": _AUTO_MAP,
    "architectures": or_null(ListOf(Text(200), most=100)),
    "torch_dtype": _DTYPE,
    "dtype": _DTYPE,
    "tie_word_embeddings": FLAG,
    # The language model's.
    "hidden_size": _WIDTH,
    "intermediate_size": whole(1, 2**20),
    "num_hidden_layers": _LAYERS,
    "num_attention_heads": whole(1, 1024),
    "num_key_value_heads": or_null(whole(1, 1024)),
    "head_dim": or_null(whole(2, 4096)),
    "vocab_size": whole(1, 4_000_000),
    "max_position_embeddings": whole(1, 2**30),
    "hidden_act": _ACTIVATION,
    "rms_norm_eps": Number(0, 0.1),
    "initializer_range": Number(0, 100),
    "attention_dropout": _SHARE,
    "attention_bias": FLAG,
    "mlp_bias": FLAG,
    "use_cache": FLAG,
    "pretraining_tp": whole(1, 1024),
    "use_sliding_window": FLAG,
    "sliding_window": or_null(whole(1, 2**31)),
    "max_window_layers": or_null(whole(0, 100_000)),
    "layer_types": or_null(ListOf(OneOf(("full_attention", "sliding_attention")), most=1000)),
    "rope_theta": Number(0, 1e15, is_above=True),
    "rope_scaling": or_null(Object(_ROPE)),
    "rope_parameters": or_null(Object(_ROPE)),
    "bos_token_id": _IDS,
    "eos_token_id": _IDS,
    "pad_token_id": _ID,
    "scale_emb": Number(0, 10_000, is_above=True),
    "scale_depth": Number(0, 10_000, is_above=True),
    "dim_model_base": whole(1, 65_536),
    # What sees.
    "vision_config": or_null(Object(_VISION)),
    "vision_encoder": Text(200),
    "drop_vision_last_layer": FLAG,
    "query_num": whole(1, 4096),
    "image_size": or_null(whole(1, 16_384)),
    "patch_size": whole(1, 256),
    "max_slice_nums": whole(1, 1000),
    "scale_resolution": whole(1, 8192),
    "slice_mode": FLAG,
    "slice_config": or_null(Object(_SLICING)),
    # What runs it.
    "quantization_config": or_null(
        Object(
            {
                "quant_method": OneOf(("bitsandbytes", "torchao")),
                "llm_int8_skip_modules": or_null(ListOf(Text(200), most=1000)),
                "modules_to_not_convert": or_null(ListOf(Text(200), most=1000)),
                "llm_int8_threshold": Number(0, 1e6),
                "llm_int8_enable_fp32_cpu_offload": FLAG,
                "llm_int8_has_fp16_weight": FLAG,
                "load_in_4bit": FLAG,
                "load_in_8bit": FLAG,
                "bnb_4bit_use_double_quant": FLAG,
                "bnb_4bit_quant_type": OneOf(("nf4", "fp4")),
                "bnb_4bit_compute_dtype": _DTYPE,
                "bnb_4bit_quant_storage": or_null(OneOf(("uint8", "int8", "float16", "bfloat16", "float32"))),
            }
        )
    ),
    "text_config": Nothing("the language model's sizes are at the top level"),
    "per_layer_config": Nothing("all layers are alike"),
    **_KERNELS,
}

_DOWNSAMPLE_MODE = or_null(Text(20))
"""Which of a release's modes there are is the table's to say."""
_ONLY_TRUE = OneOf((True, None))

PREPROCESSOR: dict[str, Rule] = {
    "video_fps": or_null(Number(0, 240, is_above=True)),
    "max_frames": or_null(whole(1, 2048)),
    "video_max_slice_nums": or_null(whole(1, 1000)),
    **_SLICING,
    "slice_mode": FLAG,
    "use_image_id": or_null(FLAG),
    "image_feature_size": whole(1, 4096),
    "norm_mean": ListOf(Number(-10, 10), least=3, most=3),
    "norm_std": ListOf(Number(1e-4, 100), least=3, most=3),
    "image_mean": ListOf(Number(-10, 10), least=3, most=3),
    "image_std": ListOf(Number(1e-4, 100), least=3, most=3),
    "downsample_mode": _DOWNSAMPLE_MODE,
    # What is done anyway.
    **dict.fromkeys(("do_resize", "do_rescale", "do_normalize", "do_convert_rgb"), _ONLY_TRUE),
    "rescale_factor": or_null(Number(1 / 255, 1 / 255)),
    "resample": OneOf((3, None)),
    "version": Either((Text(20), Number(0, 1000), OneOf((None,)))),
    "minicpmv_version": or_null(Text(20)),
    "auto_map": _AUTO_MAP,
    "processor_class": or_null(Text(200)),
    "image_processor_type": or_null(Text(200)),
}

_COUNT = or_null(whole(0, 2**31))
_AMOUNT = or_null(Number(0, 1e6))
GENERATION: dict[str, Rule] = {
    "bos_token_id": _IDS,
    "eos_token_id": _IDS,
    "pad_token_id": _ID,
    "do_sample": or_null(FLAG),
    "use_cache": or_null(FLAG),
    "temperature": _AMOUNT,
    "top_k": _COUNT,
    "top_p": or_null(_SHARE),
    "min_p": or_null(_SHARE),
    "top_h": or_null(_SHARE),
    "typical_p": or_null(_SHARE),
    "epsilon_cutoff": or_null(_SHARE),
    "eta_cutoff": or_null(_SHARE),
    "repetition_penalty": or_null(Number(0, 1000, is_above=True)),
    "encoder_repetition_penalty": or_null(Number(0, 1000, is_above=True)),
    "length_penalty": or_null(_FEW),
    "diversity_penalty": or_null(_FEW),
    "guidance_scale": or_null(_FEW),
    "penalty_alpha": or_null(_SHARE),
    "no_repeat_ngram_size": or_null(whole(0, 10_000)),
    "num_beams": or_null(whole(1, 64)),
    "num_beam_groups": or_null(whole(1, 64)),
    "num_return_sequences": or_null(whole(1, 64)),
    "early_stopping": Either((FLAG, OneOf((None, "never")))),
    "max_length": _COUNT,
    "max_new_tokens": _COUNT,
    "min_length": _COUNT,
    "min_new_tokens": _COUNT,
    "max_time": _AMOUNT,
    "stop_strings": Either((Text(), ListOf(Text(), most=100), OneOf((None,)))),
    "suppress_tokens": or_null(ListOf(whole(-1, 4_000_000), most=100_000)),
    "begin_suppress_tokens": or_null(ListOf(whole(-1, 4_000_000), most=100_000)),
    "forced_bos_token_id": _IDS,
    "forced_eos_token_id": _IDS,
    "renormalize_logits": or_null(FLAG),
    "remove_invalid_values": or_null(FLAG),
    "token_healing": Nothing("it would load another tokenizer"),
    "cache_implementation": or_null(OneOf(("dynamic", "static", "offloaded", "offloaded_static"))),
    "cache_config": Nothing("the cache is the caller's choice"),
    "compile_config": Nothing("what is compiled is the caller's choice"),
    "custom_generate": Nothing("no code of a checkpoint or a hub is run"),
    "watermarking_config": Nothing("answers have none here"),
    "continuous_batching_config": Nothing("how requests are batched is the caller's choice"),
    "chat_template_kwargs": or_null(Mapped(Either((FLAG, Text(), _FEW, OneOf((None,)))), most=100)),
    "transformers_version": or_null(Text(100)),
}

_ADDED_TOKEN = Object(
    {
        "content": Text(2000),
        **dict.fromkeys(("lstrip", "rstrip", "normalized", "single_word", "special"), FLAG),
    },
    needed=("content",),
)
_TOKEN = Either((Text(2000), _ADDED_TOKEN, OneOf((None,))))
SPECIAL_TOKENS: dict[str, Rule] = {
    **dict.fromkeys(
        ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"), _TOKEN
    ),
    "additional_special_tokens": or_null(ListOf(_TOKEN, most=100_000)),
    "extra_special_tokens": or_null(Either((ListOf(_TOKEN, most=100_000), Mapped(_TOKEN)))),
}
TOKENIZER_CONFIG: dict[str, Rule] = {
    **SPECIAL_TOKENS,
    "added_tokens_decoder": Mapped(_ADDED_TOKEN, key=Digits(4_000_000), most=400_000),
    **dict.fromkeys(
        ("add_bos_token", "add_eos_token", "legacy", "add_prefix_space", "clean_up_tokenization_spaces"), or_null(FLAG)
    ),
    **dict.fromkeys(("split_special_tokens", "use_default_system_prompt", "fix_mistral_regex"), or_null(FLAG)),
    "model_max_length": or_null(Number(1, 1e31)),
    "padding_side": OneOf(("left", "right")),
    "truncation_side": OneOf(("left", "right")),
    "model_input_names": ListOf(Text(100), most=20),
    "chat_template": Either((Text(1_000_000), ListOf(Mapped(Text(1_000_000)), most=100), OneOf((None,)))),
    "auto_map": _AUTO_MAP,
    "tokenizer_class": or_null(Text(200)),
    "processor_class": or_null(Text(200)),
    "name_or_path": or_null(Text(4096)),
    "errors": or_null(OneOf(("replace", "ignore", "strict"))),
    "sp_model_kwargs": Nothing("tokenizer.model is read as it is"),
}

ADDED_TOKENS: dict[str, Rule] = {"added_tokens": Mapped(whole(0, 4_000_000), key=Text(2000), most=400_000)}
"""The whole file, as the one value of an object."""

_PATTERN = Text(10_000)
_RANK = whole(1, 65_536)
_ALPHA = Number(0, 1e9)
ADAPTER: dict[str, Rule] = {
    "peft_type": Text(100),
    "task_type": or_null(
        OneOf(("CAUSAL_LM", "SEQ_2_SEQ_LM", "FEATURE_EXTRACTION", "QUESTION_ANS", "SEQ_CLS", "TOKEN_CLS"))
    ),
    "base_model_name_or_path": or_null(Text(4096)),
    "revision": or_null(Text(500)),
    "inference_mode": FLAG,
    "r": _RANK,
    "lora_alpha": _ALPHA,
    "lora_dropout": Number(0, 1),
    "bias": OneOf(("none", "all", "lora_only")),
    "target_modules": Either((_PATTERN, _NAMES, OneOf((None,)))),
    "exclude_modules": Either((_PATTERN, _NAMES, OneOf((None,)))),
    "target_parameters": or_null(_NAMES),
    "modules_to_save": or_null(ListOf(Text(500), most=1000)),
    "layers_to_transform": Either((whole(0, 10_000), ListOf(whole(0, 10_000), most=10_000), OneOf((None,)))),
    "layers_pattern": Either((Text(500), ListOf(Text(500), most=100), OneOf((None,)))),
    "rank_pattern": or_null(Mapped(_RANK)),
    "alpha_pattern": or_null(Mapped(_ALPHA)),
    "init_lora_weights": Either((FLAG, Text(100), OneOf((None,)))),
    **dict.fromkeys(
        ("use_dora", "use_rslora", "fan_in_fan_out", "lora_bias", "use_qalora", "ensure_weight_tying"), FLAG
    ),
    "qalora_group_size": whole(1, 65_536),
    "trainable_token_indices": Either(
        (
            ListOf(whole(0, 4_000_000)),
            Mapped(ListOf(whole(0, 4_000_000)), most=100),
            OneOf((None,)),
        )
    ),
    "megatron_config": Nothing("it names a module of Python that would be imported"),
    "megatron_core": or_null(OneOf(("megatron.core",))),
    "layer_replication": Nothing("a model's layers are its config's"),
    **dict.fromkeys(
        ("arrow_config", "kasa_config", "monteclora_config", "use_bdlora", "velora_config", "alora_invocation_tokens"),
        Nothing("this is not plain LoRA"),
    ),
}
