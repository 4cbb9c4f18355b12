"""Small random models of every version that llama.cpp can run, with the tokenizers and configs of the fixtures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch

from minicpmv.models.configuration import MiniCPMVConfig
from minicpmv.models.modeling import MiniCPMVForConditionalGeneration
from tests.tiny import FIXTURES

__all__ = ["write_exportable"]

_TABLE_PIXELS = 980
_FILES = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
)


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
