"""Traces a model step by step, as the model itself describes its forward pass (``models.joining.steps``)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import nn

from minicpmv.estimation.tracing import Blank, Footprint, trace
from minicpmv.models.networks.steps import Shape, Step, active

__all__ = ["Row", "Stage", "Tracer"]


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
    recomputes_llm: bool
    recomputes_vision: bool
    has_adapter: bool
    """Whether PEFT makes the embeddings' output require a gradient; that of patches does if the tower is trained."""
    seen: dict[Any, Footprint] = field(default_factory=dict)
    """Cache of traced stages, which models of the same sizes may share."""

    def stages(self, row: Row) -> list[Stage]:
        """Trace a forward and backward pass of a row."""
        tower_learns = _learns(active(self.model.tower))
        seeing = self.model.vision_steps([self.patches] * row.slices)
        found = list(self._trace(seeing, recomputes=self.recomputes_vision and tower_learns, learns_first=tower_learns))
        features = found[-1].footprint.result
        # Its input is the batch itself, which exists all the time.
        found[0] = found[0]._replace(given=0)
        num_image_tokens = min(row.slices * self.model.config.token_rule.count(self.patches), row.tokens)
        embedding, *others = self.model.language_steps(row.tokens, num_image_tokens, row.labelled_tokens)
        given = Blank((num_image_tokens, features.shape[-1]), features.dtype, found[-1].has_backward)
        embedded = self._stage(embedding, *map(_blank, embedding.others), given)._replace(given=features.num_bytes)
        hidden = embedded.footprint.result._replace(needs_gradient=found[-1].has_backward or self.has_adapter)
        return [*found, embedded, *self._trace(others, hidden, recomputes=self.recomputes_llm)]

    def _trace(
        self, steps: Iterable[Step], given: Blank | None = None, *, recomputes: bool, learns_first: bool = False
    ) -> Iterator[Stage]:
        """Trace steps that are computed one after the other.

        Args:
            steps: In the order of the forward pass.
            given: What the first is given in addition to its own arguments.
            recomputes: Whether its layers are computed again in the backward pass.
            learns_first: Whether an adapter needs a gradient of what the first returns.
        """
        for step in steps:
            first = [] if given is None else [given]
            stage = self._stage(step, *first, *map(_blank, step.others), recomputed=recomputes and step.is_layer)
            yield stage
            needs = stage.has_backward or (given is None and self.has_adapter and learns_first)
            given = stage.footprint.result._replace(needs_gradient=needs)

    def _stage(self, step: Step, *given: Blank, recomputed: bool = False) -> Stage:
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
            recomputed and has_backward,
            sum(weight.numel() for weight in trained),
        )


def _blank(shape: Shape) -> Blank:
    return Blank(*shape)


def _learns(module: nn.Module) -> bool:
    return any(weight.requires_grad for weight in module.parameters())


def _describe(module: nn.Module) -> Any:
    weights = ((name, tuple(each.shape), each.dtype, each.requires_grad) for name, each in module.named_parameters())
    return type(module).__name__, tuple(weights)
