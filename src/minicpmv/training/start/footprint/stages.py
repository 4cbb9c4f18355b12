"""Traces a model step by step, as the model itself describes its forward pass (``models.joining.steps``)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import nn

from minicpmv.models.networks.steps import Shape, Step, active
from minicpmv.training.start.footprint.tracing import Blank, Footprint, trace

__all__ = ["Row", "Stage", "Tracer", "count_layers", "recompute", "recompute_asked", "whole"]


class Row(NamedTuple):
    """Input of one forward pass of a process."""

    tokens: int
    """Padding included."""
    labelled_tokens: int
    slices: int
    """Slices of all images, overviews included."""


class Stage(NamedTuple):
    """A part of the network between patches and tokens and the loss."""

    name: str
    given: int
    """Bytes of the previous stage's output."""
    footprint: Footprint
    has_backward: bool
    is_recomputed: bool
    num_trained: int
    """Number of its trained parameters."""
    is_layer: bool = False
    """Whether it could be recomputed."""


def count_layers(stages: Iterable[Stage]) -> Counter[str]:
    """Count the layers that could be recomputed, by name: those of a frozen tower could not."""
    return Counter(stage.name for stage in stages if stage.is_layer and stage.has_backward)


def whole(layers: Mapping[str, int], asked: Mapping[str, bool | str]) -> dict[str, int]:
    """Return all layers of the parts that are to be recomputed; ``auto`` counts as all."""
    return {part: layers[part] for part, is_on in asked.items() if is_on}


def recompute_asked(stages: Sequence[Stage], asked: Mapping[str, bool | str]) -> list[Stage]:
    """Have all layers of the parts recomputed of which it was asked."""
    return recompute(stages, whole(count_layers(stages), asked))


def recompute(stages: Iterable[Stage], numbers: Mapping[str, int]) -> list[Stage]:
    """Have the first so many layers of each name recomputed in the backward pass, and no others."""
    seen: Counter[str] = Counter()
    found = []
    for stage in stages:
        is_layer = stage.is_layer and stage.has_backward
        found.append(stage._replace(is_recomputed=is_layer and seen[stage.name] < numbers.get(stage.name, 0)))
        seen[stage.name] += is_layer
    return found


@dataclass(frozen=True, kw_only=True)
class Tracer:
    """Traces a model's stages.

    Stages with the same shapes, types and trained parameters are alike; each kind is traced once, cached in ``seen``.
    """

    model: Any
    """The model without weights, with its adapter, from PEFT's ``get_base_model``. Unusable afterwards."""
    patches: tuple[int, int]
    """Rows and columns of a slice."""
    autocast: torch.dtype | None
    has_adapter: bool
    """Whether PEFT makes the embeddings' output require a gradient; that of patches does if the tower is trained."""
    seen: dict[Any, Footprint] = field(default_factory=dict)
    """Cache of traced stages, which models of the same sizes may share."""

    def stages(self, row: Row) -> list[Stage]:
        """Trace a forward and backward pass of a row in which nothing is recomputed."""
        tower_learns = _learns(active(self.model.tower))
        seeing = self.model.vision_steps([self.patches] * row.slices)
        found = list(self._trace(seeing, learns_first=tower_learns))
        features = found[-1].footprint.result
        # Its input is the batch itself, which exists all the time.
        found[0] = found[0]._replace(given=0)
        num_image_tokens = min(row.slices * self.model.config.token_rule.count(self.patches), row.tokens)
        embedding, *others = self.model.language_steps(row.tokens, num_image_tokens, row.labelled_tokens)
        given = Blank((num_image_tokens, features.shape[-1]), features.dtype, found[-1].has_backward)
        embedded = self._stage(embedding, *map(_blank, embedding.others), given)._replace(given=features.num_bytes)
        hidden = embedded.footprint.result._replace(needs_gradient=found[-1].has_backward or self.has_adapter)
        return [*found, embedded, *self._trace(others, hidden)]

    def _trace(
        self, steps: Iterable[Step], given: Blank | None = None, *, learns_first: bool = False
    ) -> Iterator[Stage]:
        """Trace steps that are computed one after the other.

        Args:
            steps: In the order of the forward pass.
            given: What the first is given in addition to its own arguments.
            learns_first: Whether an adapter needs a gradient of what the first returns.
        """
        for step in steps:
            first = [] if given is None else [given]
            stage = self._stage(step, *first, *map(_blank, step.others))
            yield stage
            needs = stage.has_backward or (given is None and self.has_adapter and learns_first)
            given = stage.footprint.result._replace(needs_gradient=needs)

    def _stage(self, step: Step, *given: Blank) -> Stage:
        trained = [weight for module in step.modules for weight in module.parameters() if weight.requires_grad]
        needed = any(blank.needs_gradient for blank in given)
        kind = (step.part, tuple(_describe(module) for module in step.modules), given, self.autocast)
        if kind not in self.seen:
            self.seen[kind] = trace(step.modules, step.compute, *given, autocast=self.autocast)
        has_backward = needed or bool(trained)
        return Stage(
            step.part,
            given[0].num_bytes,
            self.seen[kind],
            has_backward,
            is_recomputed=False,
            num_trained=sum(weight.numel() for weight in trained),
            is_layer=step.is_layer,
        )


def _blank(shape: Shape) -> Blank:
    return Blank(*shape)


def _learns(module: nn.Module) -> bool:
    return any(weight.requires_grad for weight in module.parameters())


def _describe(module: nn.Module) -> Any:
    weights = ((name, tuple(each.shape), each.dtype, each.requires_grad) for name, each in module.named_parameters())
    return type(module).__name__, tuple(weights)
