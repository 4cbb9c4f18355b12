"""``attend()`` against attention written out in float32, one sequence at a time: values, gradients, which kernel ran.

Of the released sizes: 72 channels a head in the towers, 64 in MiniCPM-V-2's language model, 128 in the later ones,
where a key head serves several query heads, and in the resamplers, whose 64 queries look at the patches of a slice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.cases import Case, Finding, Setting, bounded
from minicpmv.models.attention.varlen import attend

__all__ = ["cases"]


class _Shape(NamedTuple):
    of: str
    channels: int
    heads: int
    key_heads: int
    is_causal: bool
    num_queries: int | None = None
    """Of each sequence, where they are not its tokens."""


_SHAPES = (
    _Shape("tower", 72, 16, 16, False),
    _Shape("language model, grouped", 128, 28, 4, True),
    _Shape("resampler", 128, 28, 28, False, num_queries=64),
    _Shape("language model of 2.0", 64, 36, 36, True),
)
# Measured on a CPU: 4e-3, 8e-4 and 5e-7, which is rounding of inputs, weights and result. A wrong scale, window or
# sequence is off by 0.1 and more.
_MOST = {torch.bfloat16: 1e-2, torch.float16: 2e-3, torch.float32: 1e-5}
_CALLERS = ("aten::scaled_dot_product_attention",)
_LENGTHS = (3, 130, 64, 1, 257, 1024)


def cases(setting: Setting) -> list[Case]:
    """List all shapes in all precisions, and what autocast makes of them: float32 queries and keys."""
    found = []
    for dtype in _MOST:
        for shape in _SHAPES:
            name = f"{shape.of}, {str(dtype).removeprefix('torch.')}"
            found.append(Case(name, lambda shape=shape, dtype=dtype: _measure(setting, shape, dtype)))
    for shape in _SHAPES[:2]:
        found.append(
            Case(f"{shape.of}, autocast", lambda shape=shape: _measure(setting, shape, torch.float32, autocast=True))
        )
    return found


def _measure(setting: Setting, shape: _Shape, dtype: torch.dtype, *, autocast: bool = False) -> Iterator[Finding]:
    lengths = _LENGTHS[:4] if setting.is_small else _LENGTHS
    num_queries = lengths if shape.num_queries is None else [shape.num_queries] * len(lengths)
    half = torch.bfloat16 if autocast else dtype
    generator = torch.Generator(setting.device).manual_seed(0)

    def make(lengths: Sequence[int], heads: int) -> Tensor:
        size = (sum(lengths), heads, shape.channels)
        drawn = torch.randn(size, generator=generator, device=setting.device)
        return drawn.to(half).to(dtype).requires_grad_()  # what is rounded beforehand is no fault of the kernel

    query, key, value = make(num_queries, shape.heads), make(lengths, shape.key_heads), make(lengths, shape.key_heads)
    slope = torch.randn(query.shape, generator=generator, device=setting.device).to(half)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if setting.is_cuda else [])]
    casting = torch.autocast(setting.device.type, torch.bfloat16) if autocast else nullcontext()
    with profile(activities=activities) as recorded, casting:
        # As rotary embedding and the value projection leave them.
        given = value.bfloat16() if autocast else value
        ours = attend(query, key, given, query_lengths=num_queries, key_lengths=lengths, is_causal=shape.is_causal)
        setting.wait()
    ours.backward(slope.to(ours.dtype))
    found = [ours.detach(), *(_gradient(each) for each in (query, key, value))]
    expected = _expected(shape, (query, key, value), slope, num_queries, lengths)
    errors = [_relative(one, other) for one, other in zip(found, expected, strict=True)]
    kernels = sorted({event.key for event in recorded.key_averages() if _is_attention(event.key)})
    verdict = bounded(max(errors), most=_MOST[half])
    if setting.has_kernel and half != torch.float32 and not any("varlen" in name for name in kernels):
        verdict = {"holds": False, "expected": "the variable-length kernel"}
    names = ("output", "query_gradient", "key_gradient", "value_gradient")
    yield {**verdict, "relative_errors": dict(zip(names, errors, strict=True)), "kernels": kernels}


def _gradient(tensor: Tensor) -> Tensor:
    assert tensor.grad is not None
    return tensor.grad


def _expected(
    shape: _Shape, tensors: tuple[Tensor, Tensor, Tensor], slope: Tensor, queries: Sequence[int], keys: Sequence[int]
) -> list[Tensor]:
    """Compute attention by its definition, in float32; return the result and the gradients."""
    query, key, value = (each.detach().float().requires_grad_() for each in tensors)
    shared = shape.heads // shape.key_heads
    outputs = []
    for q, k, v in zip(query.split(list(queries)), key.split(list(keys)), value.split(list(keys)), strict=True):
        k, v = (each.repeat_interleave(shared, dim=1) for each in (k, v))
        scores = torch.einsum("qhc,khc->hqk", q, k) * shape.channels**-0.5
        if shape.is_causal:
            later = torch.ones(scores.shape[1:], dtype=torch.bool, device=scores.device).triu(1)
            scores = scores.masked_fill(later, float("-inf"))
        outputs.append(torch.einsum("hqk,khc->qhc", scores.softmax(dim=-1), v))
    output = torch.cat(outputs)
    output.backward(slope.float())
    return [output.detach(), *(_gradient(each) for each in (query, key, value))]


def _relative(found: Tensor, expected: Tensor) -> float:
    return ((found.float() - expected).norm() / expected.norm()).item()


def _is_attention(name: str) -> bool:
    return name not in _CALLERS and any(word in name.lower() for word in ("attention", "attn", "flash", "fmha"))
