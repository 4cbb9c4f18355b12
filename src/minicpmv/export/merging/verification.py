"""Compares the logits of a merged model with those of its base and adapter, on the same samples.

The two models are loaded one after the other. Samples are those that the adapter's run has stored for its own
verification, at the tokens of their answers; without them, a synthetic picture and question.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from minicpmv.errors import CheckpointError
from minicpmv.models.adapters.attaching import attach_adapter
from minicpmv.models.adapters.base_identity import mode_of_adapter
from minicpmv.models.checkpoints.downsampling import mode_options
from minicpmv.models.checkpoints.reference import REFERENCE, read_reference
from minicpmv.models.skeleton import load_weights
from minicpmv.processing.pictures.patches import resize
from minicpmv.processing.processor import MiniCPMVProcessor
from minicpmv.wording import counted

__all__ = ["Agreement", "Samples", "bytes_to_compare", "compare_merged", "find_samples", "refuse_disagreement"]

_ROOM = 1.25
"""Memory that loading takes, as a multiple of the weights' size, as for verifying a run; the samples are small."""
_MOST_POSITIONS = 256
"""Most positions compared; with a vocabulary of 150,000 their logits take 150 MB in float32."""
_QUESTION = "What is in this picture?"

_EXACT = 1e-4
"""Largest difference in float32 from another order of sums, relative to the largest logit or to 1. Measured on random
models of every release, with three kinds of adapter: up to 2.1e-6, which leaves room for more layers and other devices.
"""
_KEPT = 0.5
"""Largest share of the adapter's own effect that rounding may remove. At 0.5 the merged model is as close to the base
as to the adapter; a model into which nothing was merged has 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Samples:
    """The inputs of both models."""

    described: str
    inputs: dict[str, Tensor]
    chosen_BT: Tensor
    """Positions whose logits are compared, bool."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """The difference between two models in one precision."""

    dtype: str
    """Precision of both computations."""
    difference: float
    """The largest difference of two logits."""
    largest_logit: float
    """Largest absolute logit of the base with its adapter."""
    effect: float
    """The largest difference between adapter and base."""
    same_tokens: int
    """Number of positions at which both have the same likeliest token."""
    positions: int

    @property
    def allowed(self) -> float:
        """The difference that another order of sums may cause, without any rounding."""
        return _EXACT * max(1.0, self.largest_logit)

    def __str__(self) -> str:
        return (
            f"logits differ by at most {self.difference:.2g} (they reach {self.largest_logit:.3g}, the adapter changes "
            f"them by up to {self.effect:.3g}), {self.same_tokens} of {self.positions} likeliest tokens are the same"
        )


def bytes_to_compare(num_weights: int) -> int:
    """Return the memory that the comparison takes: that of one of the models in float32."""
    return int(_ROOM * num_weights * torch.float32.itemsize)


def find_samples(adapter: Path, base: Path) -> Samples:
    """Load the samples that the adapter's run has stored, or make synthetic ones."""
    if (adapter / REFERENCE).is_file():
        reference, batch = read_reference(adapter)
        labels = batch.pop("labels")
        batch.pop("label_weights", None)  # used by the loss only
        # The logits at a position predict the next token.
        trained_BT = torch.cat([labels[:, 1:] != -100, torch.zeros_like(labels[:, :1], dtype=torch.bool)], dim=1)
        number = len(reference.records)
        described = f"{counted(number, 'record')} stored by the run"
        return Samples(described=described, inputs=batch, chosen_BT=_at_most(trained_BT))
    picture = resize(Image.linear_gradient("L"), (200, 120)).convert("RGB")
    content = [{"type": "image", "image": picture}, {"type": "text", "text": _QUESTION}]
    processor = MiniCPMVProcessor.from_pretrained(base, **mode_options(mode_of_adapter(adapter)))
    made = processor.apply_chat_template([{"role": "user", "content": content}])
    inputs = {name: tensor for name, tensor in dict(made).items() if isinstance(tensor, Tensor)}
    every_BT = torch.ones_like(inputs["input_ids"], dtype=torch.bool)
    return Samples(described="a synthetic picture and question", inputs=inputs, chosen_BT=_at_most(every_BT))


def compare_merged(
    base: Path, adapter: Path, merged: Path, samples: Samples, *, dtype: torch.dtype, device: torch.device
) -> Agreement:
    """Load a base with its adapter and then the merged model, and compare their logits.

    Args:
        base: The base model's directory.
        adapter: The adapter's directory.
        merged: The merged model's directory.
        samples: The inputs.
        dtype: Precision in which both compute.
        device: Device on which both compute.

    Raises:
        CheckpointError: One of them cannot be loaded.
    """
    options = mode_options(mode_of_adapter(adapter))
    with _loaded(lambda: attach_adapter(_load(base, dtype, **options), adapter), device) as model:
        expected = _logits(model, samples, device)
        with model.disable_adapter():
            untrained = _logits(model, samples, device)
    effect = float((expected - untrained).abs().max())
    with _loaded(lambda: _load(merged, dtype), device) as model:
        found = _logits(model, samples, device)
    return Agreement(
        dtype=str(dtype).removeprefix("torch."),
        difference=float((found - expected).abs().max()),
        largest_logit=float(expected.abs().max()),
        effect=effect,
        same_tokens=int((found.argmax(-1) == expected.argmax(-1)).sum()),
        positions=len(found),
    )


def refuse_disagreement(agreement: Agreement, adapter: Path, *, is_exact: bool) -> None:
    """Verify that the merged model matches base and adapter.

    Args:
        agreement: The comparison in float32.
        adapter: The adapter's directory.
        is_exact: Whether no merged tensor was rounded.

    Raises:
        CheckpointError: The difference is too large.
    """
    allowed = agreement.allowed if is_exact else max(agreement.allowed, _KEPT * agreement.effect)
    if agreement.difference <= allowed:  # not `>`, which a NaN would pass
        return
    why = "" if is_exact else f", half of the adapter's effect ({agreement.effect:.3g})"
    fix = "report it with the adapter's adapter_config.json" if is_exact else "--dtype float32 rounds nothing off"
    raise CheckpointError(
        f"{adapter}: found that logits differ by up to {agreement.difference:.3g} from those of base and adapter, "
        f"expected at most {allowed:.3g}{why}; nothing is saved\n"
        f"  fix: {fix}; --no-verify saves it anyway"
    )


@contextmanager
def _loaded(load: Callable[[], Any], device: torch.device) -> Iterator[Any]:
    """Yield a model on a device, and free its memory afterwards."""
    model = load().to(device).eval()
    try:
        yield model
    finally:
        del model
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _load(directory: Path, dtype: torch.dtype, **options: Any) -> Any:
    return load_weights(directory, dtype=dtype, **options)


@torch.no_grad()
def _logits(model: Any, samples: Samples, device: torch.device) -> Tensor:
    """Return the logits at the chosen positions only, (N, vocabulary), float32 on the CPU."""
    columns = samples.chosen_BT.any(dim=0).nonzero().squeeze(-1)
    inputs = {name: tensor.to(device) for name, tensor in samples.inputs.items()}
    logits_BKV = model(**inputs, logits_to_keep=columns.to(device), use_cache=False).logits
    return logits_BKV[samples.chosen_BT[:, columns].to(device)].float().cpu()


def _at_most(chosen_BT: Tensor) -> Tensor:
    """Keep an evenly spread selection of the chosen positions."""
    rows, columns = chosen_BT.nonzero(as_tuple=True)
    step = -(-len(rows) // _MOST_POSITIONS)
    kept_BT = torch.zeros_like(chosen_BT)
    kept_BT[rows[::step], columns[::step]] = True
    return kept_BT
