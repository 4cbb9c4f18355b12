"""Small random models of shapes that llama.cpp and vLLM run, with the tokenizers and configs of the fixtures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch

from minicpmv.models.configuration import MiniCPMVConfig, read_model_config
from minicpmv.models.modeling import MiniCPMVForConditionalGeneration
from minicpmv.models.skeleton import model_class
from tests.tiny import FIXTURES

__all__ = ["write_exportable", "write_exportable_native"]

_TABLE_PIXELS = 980
_FILES = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
)

_NATIVE_FILES = (
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
)
_NATIVE_TEXT = {
    "hidden_size": 128,
    "intermediate_size": 256,
    # vLLM on a CPU: heads of all layers in steps of 32. GPTQ in groups of 128: inputs of all matrices in such steps.
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 64,
    "linear_value_head_dim": 64,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10000000,
        "partial_rotary_factor": 0.25,  # the released one; 16 of 64 numbers are turned, in 8 pairs
        "mrope_section": [3, 3, 2],
        "mrope_interleaved": True,
    },
}
_NATIVE_VISION = {"hidden_size": 64, "intermediate_size": 128}


def write_exportable(folder: Path, fixture: str, *, seed: int = 0) -> Path:
    """Write a model directory whose position table is as large as the released ones, with weights that all matter."""
    folder.mkdir(parents=True)
    for name in _FILES:
        shutil.copyfile(FIXTURES / fixture / name, folder / name)
    fields = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    fields["vision_config"]["image_size"] = _TABLE_PIXELS
    fields["torch_dtype"] = "float32"
    if "head_dim" in fields:  # vLLM's attention on a CPU has no kernels for narrower heads
        fields["head_dim"] = 32
    (folder / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    torch.manual_seed(seed)
    model = MiniCPMVForConditionalGeneration(MiniCPMVConfig.from_pretrained(folder))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "position_embedding" in name or name == "resampler.query":
                parameter.normal_()
            elif parameter.ndim > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
            else:  # biases would be 0 and norms 1
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    return folder


def write_exportable_native(folder: Path, *, dtype: str = "float32", seed: int = 0) -> Path:
    """Write a 4.6 whose heads and widths are such as engines have kernels for, with weights that all matter.

    Its embeddings and the heads of its linear layers are drawn narrow enough that it can be trained.
    """
    folder.mkdir(parents=True)
    for name in _NATIVE_FILES:
        shutil.copyfile(FIXTURES / "v4_6" / name, folder / name)
    fields = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    fields["dtype"] = fields["text_config"]["dtype"] = dtype
    fields["text_config"] |= _NATIVE_TEXT
    fields["vision_config"] |= _NATIVE_VISION
    (folder / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    torch.manual_seed(seed)
    config = read_model_config(folder)
    model = model_class(config)(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("A_log", "dt_bias")):  # as they are drawn: they say how fast a state fades
                continue
            if "position_embedding" in name:
                parameter.normal_(std=0.5)
            elif parameter.ndim > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
            else:  # biases would be 0, and norms too: they count from 1 there
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    return folder
