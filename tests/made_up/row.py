"""The row of the made-up release."""

from __future__ import annotations

from minicpmv.releases.row import Answering, Engines, Markup, Network, Parts, Reading, Version

__all__ = ["MADE_UP"]

_LAYER = r"speech\.model\.layers\.\d+"

MADE_UP = Version(
    name="0.1",
    model="nobody/Made-Up-V",
    llm_types=("made-up",),
    reading=Reading(
        dialect="tests.made_up.dialect:SCRIPT",
        tokenizer="minicpmv.processing.tokens.released_tokenizers:MiniCPMVTokenizerFast",
        terminators=("<|done|>",),
        markup=Markup(
            slot="<|pixel|>",
            image=("<|picture|>", "<|/picture|>"),
            tile=("<|part|>", "<|/part|>"),
            number=("<|number|>", "<|/number|>"),
            between_rows=";",
        ),
        token_side=2,
    ),
    network=Network(
        model_type="made_up",
        config="tests.made_up.network:MadeUpConfig",
        model="tests.made_up.network:MadeUpModel",
        language_model="transformers:LlamaForCausalLM",
        connector="tests.made_up.network:Merger",
        vision_positions="grid",
        parts=Parts(
            tower="sight.tower",
            connector="sight.merger",
            language_model="speech",
            body="speech.model",
            embeddings="speech.model.embed_tokens",
            head="speech.lm_head",
            layers="speech.model.layers",
        ),
        lora_on={
            "attention": rf"{_LAYER}\.self_attn\.(q|k|v|o)_proj",
            "all-linear": rf"{_LAYER}\..*_proj",
            "vision-attention": r"sight\.tower\.encoder\.layers\.\d+\.self_attn\.(q|k|v|out)_proj",
            "resampler": r"sight\.merger\.(inner|outer)",
        },
        lora_notices={},
    ),
    answering=Answering(max_input_tokens=512, max_new_tokens=16),
    engines=Engines(gguf="llama.cpp has no code for what was made up"),
)
