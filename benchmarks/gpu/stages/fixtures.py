"""Five tiny releases, with the released code's own layout: on this device they compute what they compute on a CPU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.batches import make_tiny_data, send, tiny_batch
from benchmarks.gpu.cases import Case, Finding, Setting
from benchmarks.models import FIXTURES
from minicpmv.models.modeling import MiniCPMVForConditionalGeneration

__all__ = ["cases"]

_NAMES = ("v2", "v2_5", "v2_6", "v4", "v4_5")
_NUM_RECORDS = 6
_CPU = torch.device("cpu")
# Relative. Measured on a CPU: losses 1e-7, 8e-4 and 6e-5, gradients 2e-6, 0.11 and 8e-3. A parameter that learns from a
# wrong place is off by 1.
_LOSS = {torch.float32: 1e-4, torch.bfloat16: 1e-2, torch.float16: 1e-3}
_GRADIENTS = {torch.float32: 1e-3, torch.bfloat16: 0.3, torch.float16: 4e-2}
_SMALLEST = 1e-3
"""Of the whole gradient's norm: what is smaller is compared with this. The bias of a key, which no softmax sees, has a
gradient that is nothing but rounding."""


def cases(setting: Setting) -> list[Case]:
    """List the releases."""
    return [Case(name, lambda name=name: _measure(setting, name)) for name in _NAMES]


def _measure(setting: Setting, name: str) -> Iterator[Finding]:
    model = FIXTURES / name
    data = make_tiny_data(setting.folder / f"fixtures-{name}", num_records=_NUM_RECORDS)
    batches = {"padded": tiny_batch(model, data, packed=False), "packed": tiny_batch(model, data, packed=True)}
    expected_loss, expected = _learn(model, batches["padded"], _CPU, torch.float32)
    for dtype in _LOSS:
        for how, batch in batches.items():
            loss, gradients = _learn(model, batch, setting.device, dtype)
            missing = sorted(expected.keys() - gradients.keys())
            error, worst = _largest_error(gradients, expected)
            off = abs(loss - expected_loss) / expected_loss
            yield {
                "holds": off <= _LOSS[dtype] and error <= _GRADIENTS[dtype] and not missing,
                "expected": f"loss within {_LOSS[dtype]:g}, gradients within {_GRADIENTS[dtype]:g}, none missing",
                "dtype": str(dtype).removeprefix("torch."),
                "batch": how,
                "loss": loss,
                "loss_error": off,
                "gradient_error": error,
                "worst_gradient": worst,
                "gradients": len(gradients),
                "without_gradient": missing[:5],
            }


def _learn(
    model: Path, batch: Mapping[str, Any], device: torch.device, dtype: torch.dtype
) -> tuple[float, dict[str, Tensor]]:
    """Compute loss and gradients; return them on the CPU in float32."""
    loaded: Any = MiniCPMVForConditionalGeneration.from_pretrained(model, dtype=dtype)
    loaded = loaded.to(device).train()
    loss = loaded(**send(dict(batch), device)).loss
    loss.backward()
    named = loaded.named_parameters()
    return loss.item(), {name: each.grad.float().cpu() for name, each in named if each.grad is not None}


def _largest_error(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> tuple[float, str]:
    whole = torch.stack([each.norm() for each in expected.values()]).norm()
    errors = {
        name: ((found[name] - each).norm() / each.norm().clamp(min=_SMALLEST * whole)).item()
        for name, each in expected.items()
        if name in found
    }
    worst = max(errors, key=lambda name: errors[name] if errors[name] == errors[name] else float("inf"))
    return errors[worst], worst
