"""Verifies a finished export: reads its files back, compares them with the checkpoint and runs them.

It runs this package's model with the files' weights. That shows the cost of their precision, and that no tensor is
misplaced or transposed; tests/engines verifies that llama.cpp computes the same from them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGMLQuantizationType
from PIL import Image
from torch import Tensor

from minicpmv.errors import CheckpointError
from minicpmv.export.checkpoint import Checkpoint
from minicpmv.export.gguf.files import read_back
from minicpmv.export.gguf.tensors import EngineTensor
from minicpmv.export.gguf.types import ERROR_BOUNDS
from minicpmv.inference.loading import default_device
from minicpmv.processing.processor import MiniCPMVProcessor
from minicpmv.releases.row import find_code

__all__ = ["Agreement", "check_tensors", "compare_logits"]

_QUESTION = "What is this?"
_FLOAT_BOUND = 0.05
"""Largest difference of logits, relative to their largest, that float16 and bfloat16 may make."""
_FLOATS = {GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.BF16}

File = tuple[Path, Sequence[EngineTensor]]


@dataclass(frozen=True, slots=True)
class Agreement:
    """Difference between the logits of the exported weights and the checkpoint's, for one question about a picture."""

    difference: float
    """Largest difference of two logits, relative to the largest logit."""
    same_choice: float
    """Share of positions at which the likeliest token is the same."""


def check_tensors(checkpoint: Checkpoint, files: Iterable[File]) -> dict[GGMLQuantizationType, float]:
    """Compare every tensor of the files with the checkpoint's.

    Returns:
        The largest error for each number format: root mean square, relative to the tensor's own.

    Raises:
        CheckpointError: A tensor differs by more than its format's rounding.
    """
    largest: dict[GGMLQuantizationType, float] = {}
    for file, tensors in files:
        rounding = {tensor.source: tensor.rounding for tensor in tensors}
        for name, found, kind in read_back(file, tensors):
            expected = checkpoint.weights.read(name).float()
            error = _relative(found - expected, expected)
            bound = max(ERROR_BOUNDS[kind], rounding[name])
            if not error <= bound:  # also where it is NaN
                raise CheckpointError(
                    f"{file} {name}: found values that differ by {error:.2g} of their size in {kind.name}, expected at "
                    f"most {bound:g}\n  fix: choose a type with more bits; if that has the same error, report it"
                )
            largest[kind] = max(largest.get(kind, 0.0), error)
    return largest


def compare_logits(
    checkpoint: Checkpoint, processor: MiniCPMVProcessor, files: Sequence[File], device: str | None
) -> Agreement:
    """Run the checkpoint, then the same model with the weights of the files, on one question about a picture.

    Raises:
        CheckpointError: The files hold floats, and the logits differ by more than their rounding can explain.
    """
    target = default_device(device)
    dtype: Any = torch.float32 if target.type == "cpu" else "auto"
    model_class = find_code(checkpoint.config.minicpmv_version.network.model)
    model: Any = model_class.from_pretrained(checkpoint.path, dtype=dtype)
    model.eval().to(target)
    content = [{"type": "image", "image": _picture(processor)}, {"type": "text", "text": _QUESTION}]
    inputs = processor.apply_chat_template([{"role": "user", "content": content}]).to(target)
    before = _logits(model, inputs)
    kinds: set[GGMLQuantizationType] = set()
    parameters = dict(model.named_parameters()) | dict(model.named_buffers())
    with torch.no_grad():
        for file, tensors in files:
            for name, values, kind in read_back(file, tensors):
                parameters[name].copy_(values.to(target))
                kinds.add(kind)
    after = _logits(model, inputs)
    found = Agreement(
        float((after - before).abs().max() / before.abs().max()),
        float((after.argmax(-1) == before.argmax(-1)).float().mean()),
    )
    if kinds <= _FLOATS and not found.difference <= _FLOAT_BOUND:
        raise CheckpointError(
            f"{files[0][0].parent}: found logits that differ by {found.difference:.2g} of the largest, expected at "
            f"most {_FLOAT_BOUND:g} for float formats\n  fix: choose --type f32; if that fails, report it"
        )
    return found


@torch.inference_mode()
def _logits(model: Any, inputs: Any) -> Tensor:
    return model(**inputs).logits.float().cpu()


def _picture(processor: MiniCPMVProcessor) -> Image.Image:
    """Draw stripes and noise, one slice large: a plain picture would hide faults in positions."""
    side = processor.image_processor.scale_resolution
    noise = np.random.default_rng(0).integers(0, 64, (side, side, 3))
    stripes = np.arange(side)[:, None, None] * 8 % 192
    return Image.fromarray((noise + stripes).astype(np.uint8))


def _relative(difference: Tensor, of: Tensor) -> float:
    size = float(of.square().mean().sqrt())
    error = float(difference.square().mean().sqrt())
    return error / size if size else error
