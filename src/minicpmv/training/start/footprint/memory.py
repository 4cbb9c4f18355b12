"""Predicts the most memory that a step takes on one device, by component, at the moment at which it is highest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
from torch import nn

from minicpmv.models.attention.varlen import without_products
from minicpmv.releases.row import Parts
from minicpmv.training.learning.gradient_release import BUCKET
from minicpmv.training.learning.parts import parts_of
from minicpmv.training.learning.recomputation import asked_of_parts
from minicpmv.training.start.footprint.engines import Engine, find_engine
from minicpmv.training.start.footprint.optimizer_states import Trained, state_bytes, step_bytes
from minicpmv.training.start.footprint.stages import Row, Tracer, count_layers, recompute, whole
from minicpmv.training.start.footprint.subject import Subject, build_model
from minicpmv.training.start.footprint.timeline import Moment, play

__all__ = ["Memory", "Prediction", "estimate_memory", "make_tracer"]

_FLOAT32 = 4
# NF4 with double quantization: 4 bits, an 8-bit scale for 64 weights, a 32-bit one for 256 of those.
# Source: arXiv:2305.14314, section 3.
_PACKED = 0.5 + 1 / 64 + 4 / (64 * 256)
_CONTEXT = int(0.75 * 2**30)
"""Bytes for CUDA, its libraries and their workspaces. Assumed, not measured."""
_FRAGMENTS = 0.05
"""Share of a step's allocations that the allocator cannot reuse. Assumed, not measured."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """Bytes on one device at its peak, by component."""

    weights: int
    """Weights as loaded, with the full copies that PEFT trains."""
    copies: int
    """Half-precision copies of weights, made by autocast."""
    gradients: int
    optimizer: int
    """Optimizer state, with DeepSpeed's float32 masters, and a step's temporary memory."""
    activations: int
    """Activations, with the loaded batches."""
    logits: int
    communication: int
    """Communication buckets, and the tensors that a sharding engine gathers."""
    system: int
    """CUDA itself and fragmentation: an allowance."""
    moment: str
    """The moment of the peak."""

    @property
    def total(self) -> int:
        """Bytes of all kinds together."""
        return sum(getattr(self, item.name) for item in fields(self) if item.name != "moment")


class _Held(NamedTuple):
    """Memory that a device holds all the time."""

    weights: int
    optimizer: int
    gradients: int
    """Gradients that the engine takes over, or that wait for their update; 0 if they live in the backward pass only."""
    communication: int


def estimate_memory(subject: Subject, rows: Iterable[Row], *, patches: tuple[int, int], seen: dict[Any, Any]) -> Memory:
    """Simulate a step on each row, and return the largest memory.

    Args:
        subject: The run. Where it leaves open how many layers are recomputed, all are.
        rows: The heaviest rows of a process.
        patches: Rows and columns of a slice.
        seen: Cache of traced stages; filled here.

    Raises:
        UsageError: The optimizer's state is not known.
    """
    prediction = Prediction(subject, rows, patches=patches, seen=seen)
    return prediction.at(whole(prediction.layers, asked_of_parts(subject.run)))


class Prediction:
    """A run's step, traced once, whose memory can be asked for with any number of recomputed layers.

    Args:
        subject: The run.
        rows: The heaviest rows of a process.
        patches: Rows and columns of a slice.
        seen: Cache of traced stages; filled here.

    Raises:
        UsageError: The optimizer's state is not known.
    """

    def __init__(
        self, subject: Subject, rows: Iterable[Row], *, patches: tuple[int, int], seen: dict[Any, Any]
    ) -> None:
        model: Any = build_model(subject)
        config = model.config
        layer = max(sum(weight.numel() for weight in each.parameters()) for each in _layers(model))
        engine = find_engine(
            subject.settings,
            num_devices=subject.num_devices,
            hidden_size=config.text_config.hidden_size,
            layer_elements=layer,
            head_elements=sum(weight.numel() for weight in model.get_output_embeddings().parameters()),
        )
        trained = list(_trained(model))
        releases = subject.run.release_gradients
        self._subject, self._engine = subject, engine
        self._held = _hold(subject, model, engine, trained)
        self._on_step = 0 if releases else _at_step(subject, engine, trained)
        self._takes_over = engine.has_masters or engine.shards_gradients or releases
        self._unpacked = _unpacked_bytes(model) if subject.packs_weights else 0
        self._num_micro = int(subject.settings.get("gradient_accumulation_steps") or 1)
        self._at_update = _step_moment(trained, self._on_step, takes_over=self._takes_over)
        autocast = None if engine.has_masters else subject.half
        tracer = make_tracer(subject, model, patches=patches, autocast=autocast, seen=seen)
        # A GPU's step is traced on this CPU, whose own attention kernel would need different memory.
        with nullcontext() if subject.settings["use_cpu"] else without_products():
            self._traced = [(row, tracer.stages(row)) for row in rows]
        # accelerate loads the batches of a whole step, and one of the next.
        self._of_slice = (self._num_micro + 1) * patches[0] * patches[1] * _patch_bytes(config)

    @property
    def layers(self) -> Counter[str]:
        """Return how many layers could be recomputed, by the name of their part."""
        return max((count_layers(stages) for _, stages in self._traced), key=Counter.total)

    def at(self, recomputed: Mapping[str, int]) -> Memory:
        """Return the memory with the first so many layers of each part recomputed."""
        moments = [self._at_update]
        for row, stages in self._traced:
            batches = row.slices * self._of_slice
            played = play(
                recompute(stages, recomputed),
                gradient_bytes=0 if self._takes_over else _FLOAT32,
                gradients_stay=self._takes_over or self._num_micro > 1,
            )
            moments += [
                moment._replace(
                    activations=moment.activations + batches,
                    copies=0 if self._engine.gathers_in_half else moment.copies,
                )
                for moment in played
            ]
        peak = max(moments, key=lambda moment: sum(moment[1:]))
        on_step = self._on_step if peak is moments[0] else 0
        return _with_system(self._held, peak, on_step, self._unpacked, on_cpu=self._subject.settings["use_cpu"])


def make_tracer(
    subject: Subject, model: Any, *, patches: tuple[int, int], autocast: torch.dtype | None, seen: dict[Any, Any]
) -> Tracer:
    """Make a tracer of a model with the run's settings."""
    return Tracer(
        model=model.get_base_model() if subject.run.use_lora else model,
        patches=patches,
        autocast=autocast,
        has_adapter=subject.run.use_lora,
        seen=seen,
    )


def _patch_bytes(config: Any) -> int:
    return 3 * config.vision_config.patch_size**2  # one byte per value


def _step_moment(trained: Sequence[Trained], on_step: int, *, takes_over: bool) -> Moment:
    gradients = 0 if takes_over else _FLOAT32 * sum(each.size for each in trained)
    return Moment("the optimizer's step", 0, 0, on_step, gradients)


def _with_system(held: _Held, peak: Moment, on_step: int, unpacked: int, *, on_cpu: bool) -> Memory:
    moving = peak.activations + peak.logits + peak.copies + unpacked
    return Memory(
        weights=held.weights,
        copies=peak.copies - on_step + unpacked,
        gradients=held.gradients + peak.gradients,
        optimizer=held.optimizer + on_step,
        activations=peak.activations,
        logits=peak.logits,
        communication=held.communication,
        system=0 if on_cpu else _CONTEXT + int(moving * _FRAGMENTS),
        moment=peak.name,
    )


def _hold(subject: Subject, model: Any, engine: Engine, trained: Sequence[Trained]) -> _Held:
    share = subject.num_devices
    total = sum(_stored_bytes(name, weight, subject) for name, weight in model.named_parameters())
    elements = sum(weight.numel() for _, weight in model.named_parameters())
    size = sum(each.size for each in trained)
    itemsize = subject.base_dtype.itemsize if engine.has_masters else _FLOAT32
    optimizer = state_bytes(_optimizer(subject), trained) + engine.has_masters * _FLOAT32 * size
    takes_over = engine.has_masters or engine.shards_gradients
    if subject.run.release_gradients:  # updates, and what they need, are inside the backward pass
        optimizer += _in_backward(subject, trained)
    gradients = takes_over * size * itemsize // (share if engine.shards_gradients else 1)
    exchanged = engine.copies_gradients * size * itemsize + engine.bucket_elements * itemsize
    gathered = min(engine.live_elements, elements) * (subject.half or torch.float32).itemsize
    return _Held(
        weights=0 if engine.offloads_weights else total // (share if engine.shards_weights else 1),
        optimizer=0 if engine.offloads_optimizer else optimizer // (share if engine.shards_optimizer else 1),
        gradients=min(BUCKET, _FLOAT32 * size) * subject.run.release_gradients
        or (0 if engine.offloads_optimizer else gradients),
        communication=exchanged + gathered,
    )


def _at_step(subject: Subject, engine: Engine, trained: Sequence[Trained]) -> int:
    """Count the bytes of the optimizer's step, without its state."""
    if engine.offloads_optimizer:
        return 0
    size = sum(each.size for each in trained)
    # DeepSpeed converts half-precision gradients to float32 for its masters.
    needed = step_bytes(_optimizer(subject), trained) + engine.has_masters * _FLOAT32 * size
    return needed // (subject.num_devices if engine.shards_optimizer else 1)


def _in_backward(subject: Subject, trained: Sequence[Trained]) -> int:
    """Count the bytes that an optimizer needs to update one bucket of gradients, without its state."""
    largest = max(trained, key=lambda each: each.size, default=Trained((0,), False))
    bucket = [largest, Trained((BUCKET // _FLOAT32,), False)]
    return min(step_bytes(_optimizer(subject), bucket), step_bytes(_optimizer(subject), trained))


def _optimizer(subject: Subject) -> str:
    name = subject.settings.get("optim") or "adamw_torch_fused"
    return str(getattr(name, "value", name))


def _trained(model: nn.Module) -> Iterator[Trained]:
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            yield Trained(tuple(weight.shape), "embed" in name)


def _stored_bytes(name: str, weight: torch.Tensor, subject: Subject) -> int:
    if subject.packs_weights and _is_packed(name, weight, subject.base.version.network.parts):
        return int(weight.numel() * _PACKED)
    return weight.numel() * weight.element_size()


def _is_packed(name: str, weight: torch.Tensor, parts: Parts) -> bool:
    return f"{parts.layers}." in name and weight.dim() == 2 and ".lora_" not in name


def _unpacked_bytes(model: nn.Module) -> int:
    """Return the size of the largest quantized matrix in half precision: they are dequantized one by one when used."""
    parts = parts_of(model)
    packed = (each for name, each in model.named_parameters() if _is_packed(name, each, parts))
    return max((2 * each.numel() for each in packed), default=0)


def _layers(model: Any) -> Iterator[nn.Module]:
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return iter([*base.layers, base.get_input_embeddings()])
