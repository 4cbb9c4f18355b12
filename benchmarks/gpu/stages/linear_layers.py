"""Layers of 4.6 that carry a state: in a packed row each sample is as alone, value and gradient, by the right kernel.

The layer has the released sizes and random weights. Alone, a sample goes through transformers' own forward pass, which
is told nothing of other samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from transformers.models.qwen3_5.configuration_qwen3_5 import Qwen3_5TextConfig
from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5GatedDeltaNet
from transformers.utils.import_utils import is_flash_linear_attention_available

from benchmarks.gpu.cases import Case, Finding, LeftOut, Setting
from minicpmv.models.attention.varlen import Lengths
from minicpmv.models.native.exchanged import exchange
from minicpmv.models.native.linear_attention import LinearAttention
from tests.released_sizes import NATIVE

__all__ = ["cases"]

# Measured on a CPU, by torch: 5e-3 and 7e-7. Told as one sample, the row is off by 0.3.
_MOST = {torch.bfloat16: 2e-2, torch.float32: 1e-3}
_LEAK = 5e-2
_LENGTHS = (3, 130, 64, 1, 257, 1024)
_NARROW = {"hidden_size": 64, "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 16,
           "linear_value_head_dim": 16}  # fmt: skip


def cases(setting: Setting) -> list[Case]:
    """List the precisions."""
    return [Case(str(dtype).removeprefix("torch."), lambda dtype=dtype: _measure(setting, dtype)) for dtype in _MOST]


def _measure(setting: Setting, dtype: torch.dtype) -> Iterator[Finding]:
    if setting.is_cuda and not is_flash_linear_attention_available():
        raise LeftOut("flash-linear-attention is not installed (pip install flash-linear-attention); torch computes")
    lengths = Lengths(_LENGTHS[:4] if setting.is_small else _LENGTHS)
    layer = _make_layer(setting, dtype)
    generator = torch.Generator(setting.device).manual_seed(0)
    size = (1, sum(lengths), layer.hidden_size)
    hidden, slope = (torch.randn(size, generator=generator, device=setting.device).to(dtype) for _ in range(2))
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if setting.is_cuda else [])]
    with profile(activities=activities) as recorded:
        packed = _learn(layer, [hidden], [slope], lengths)
        setting.wait()
    pieces = [list(each.split(list(lengths), dim=1)) for each in (hidden, slope)]
    alone = _learn(layer, pieces[0], pieces[1], None)
    joined = _learn(layer, [hidden], [slope], None)
    errors = {name: _relative(packed[name], each) for name, each in alone.items()}
    leak = _relative(joined["output"], alone["output"])
    kernels = sorted({event.key for event in recorded.key_averages() if "delta" in event.key.lower()})
    is_meant = not setting.is_cuda or bool(kernels)
    yield {
        "holds": max(errors.values()) <= _MOST[dtype] and leak > _LEAK and is_meant,
        "expected": f"at most {_MOST[dtype]:g}, by flash-linear-attention on a GPU; a leak of more than {_LEAK:g} seen",
        "relative_errors": errors,
        "leak": leak,
        "kernels": kernels,
    }


def _make_layer(setting: Setting, dtype: torch.dtype) -> LinearAttention:
    sizes = NATIVE["4.6"]["text_config"] | {"num_hidden_layers": 2} | (_NARROW if setting.is_small else {})
    torch.manual_seed(0)
    config: Any = Qwen3_5TextConfig(**sizes)  # the class is declared to take the whole model's
    layer: nn.Module = Qwen3_5GatedDeltaNet(config, layer_idx=0)
    exchange(layer, LinearAttention)
    assert isinstance(layer, LinearAttention)
    nn.init.constant_(layer.A_log, -3.0)  # as made, a state is forgotten within a token, and no leak would be seen
    return layer.to(setting.device, dtype)


def _learn(
    layer: LinearAttention, rows: Sequence[Tensor], slopes: Sequence[Tensor], lengths: Lengths | None
) -> dict[str, Tensor]:
    """Run rows forward and backward; return what came out, and the gradients of it."""
    layer.zero_grad()
    outputs, gradients = [], []
    for row, slope in zip(rows, slopes, strict=True):
        given = row.detach().requires_grad_()
        outputs.append(layer(given, sequence_lengths=lengths))
        outputs[-1].backward(slope)
        assert given.grad is not None
        gradients.append(given.grad)
    found = {"output": torch.cat(outputs, dim=1).detach(), "input_gradient": torch.cat(gradients, dim=1)}
    for name, weight in layer.named_parameters():
        assert weight.grad is not None
        found[f"{name}_gradient"] = weight.grad.clone()
    return found


def _relative(found: Tensor, expected: Tensor) -> float:
    return ((found.float() - expected.float()).norm() / expected.float().norm()).item()
