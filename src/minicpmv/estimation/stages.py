"""Traces the model as a sequence of stages: tower layer by layer, resampler, embeddings, language model, loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from minicpmv.estimation.tracing import Blank, Footprint, trace
from minicpmv.models.networks.loss import count_chunks, summed_loss

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


_NOTHING_SEEN = (1, 2)
"""A row of text runs the vision side on this many tokens, so that all processes run the same modules."""


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
        found = list(self._vision(row))
        features = found[-1].footprint.output
        found.append(self._embed(row, features, needs_gradient=found[-1].has_backward))
        needs = found[-1].has_backward or self.has_adapter
        found += self._language_model(row, needs_gradient=needs)
        return found

    def _vision(self, row: Row) -> Iterator[Stage]:
        config, tower, resampler = self.model.config, _active(self.model.tower), _active(self.model.connector)
        token_side = config.token_rule.side or 1
        sizes = [self.patches] * row.slices or [(_NOTHING_SEEN[0] * token_side, _NOTHING_SEEN[1] * token_side)]
        lengths = [rows * columns for rows, columns in sizes]
        side, width, embeddings = config.vision_config.patch_size, config.vision_config.hidden_size, tower.embeddings

        def embed(patches: Tensor, places: Tensor) -> Tensor:
            # What `read_pixels` returns. Its look-up, piece by piece, would take most of the time of an estimate, and
            # its pieces need less than the embeddings of the patches at any released width.
            values = patches.to(embeddings.patch_embedding.weight.dtype)
            if tower.positions == "row":
                values = values.clone()  # 2.5 pads it
            return embeddings.patch_embedding(values) + embeddings.position_embedding(places)

        patches = Blank((sum(lengths), 3 * side**2), torch.uint8)
        places = Blank((sum(lengths),), torch.int64)
        # Its input is the batch itself, which exists all the time.
        yield self._stage("vision tower", [embeddings], embed, patches, places)._replace(given=0)
        dtype = _sum_type(embeddings.position_embedding.weight.dtype, self.autocast)
        hidden = Blank((sum(lengths), width), dtype, _learns(embeddings) or (self.has_adapter and _learns(tower)))
        recomputed = self.recomputes_vision and _learns(tower)
        for layer in tower.encoder.layers:
            yield self._stage(
                "vision tower", [layer], lambda x, layer=layer: layer(x, lengths), hidden, recomputed=recomputed
            )
            hidden = hidden._replace(needs_gradient=hidden.needs_gradient or _learns(layer))
        yield self._stage("vision tower", [tower.post_layernorm], tower.post_layernorm, hidden)
        hidden = hidden._replace(needs_gradient=hidden.needs_gradient or _learns(tower.post_layernorm))
        # Before tracing, which would count its table of positions as kept by each batch.
        if (positions := getattr(resampler, "positions", None)) is not None:
            for dtype in (torch.float32, next(resampler.parameters()).dtype):
                positions.of_grid(sizes[:1], torch.device("cpu"), dtype)  # all are of one size
        yield self._stage("resampler", [resampler], lambda x: resampler(x, sizes), hidden)

    def _embed(self, row: Row, features: int, *, needs_gradient: bool) -> Stage:
        embeddings, width = _active(self.model.get_input_embeddings()), self.model.config.text_config.hidden_size
        num_image_tokens = min(row.slices * self._tokens_of_slice(), row.tokens)
        dtype = next(_active(self.model.connector).parameters()).dtype

        def embed(ids: Tensor, places: Tensor, features: Tensor) -> Tensor:
            embedded = embeddings(ids)
            return embedded.index_put((places // row.tokens, places % row.tokens), features.to(embedded))

        return self._stage(
            "token embeddings",
            [embeddings],
            embed,
            Blank((1, row.tokens), torch.int64),
            Blank((num_image_tokens,), torch.int64),
            Blank((num_image_tokens, width), self.autocast or dtype, needs_gradient),
        )._replace(given=features)

    def _language_model(self, row: Row, *, needs_gradient: bool) -> Iterator[Stage]:
        config = self.model.config.text_config
        norm, head = self.model.body.norm, self.model.head
        head_width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        dtype = _active(self.model.get_input_embeddings()).weight.dtype
        hidden = Blank((1, row.tokens, config.hidden_size), dtype, needs_gradient)
        positions = Blank((1, row.tokens, head_width), dtype)
        for layer in self.model.layers:

            def run(x: Tensor, place: Tensor, layer: Any = layer) -> Tensor:
                return layer(x, position_embeddings=(place, place), attention_mask=None)

            yield self._stage("language model", [layer], run, hidden, positions, recomputed=self.recomputes_llm)
            hidden = hidden._replace(needs_gradient=hidden.needs_gradient or _learns(layer))

        def predict(hidden: Tensor, chosen: Tensor, targets: Tensor) -> Tensor:
            chunks = count_chunks(config.vocab_size)
            return summed_loss(norm(hidden)[0].index_select(0, chosen), targets, self.model._project, num_chunks=chunks)

        number = Blank((max(row.labelled_tokens, 1),), torch.int64)
        yield self._stage("loss", [norm, head], predict, hidden, number, number)

    def _tokens_of_slice(self) -> int:
        return self.model.config.token_rule.count(self.patches)

    def _stage(
        self, name: str, modules: Sequence[Any], compute: Callable[..., Tensor], *given: Blank, recomputed: bool = False
    ) -> Stage:
        trained = [weight for module in modules for weight in module.parameters() if weight.requires_grad]
        needed = any(blank.needs_gradient for blank in given)
        kind = (name, tuple(_describe(module) for module in modules), given, self.autocast)
        if kind not in self.seen:
            self.seen[kind] = trace(modules, compute, *given, autocast=self.autocast)
        has_backward = needed or bool(trained)
        return Stage(
            name,
            given[0].num_bytes,
            self.seen[kind],
            has_backward,
            recomputed and has_backward,
            sum(weight.numel() for weight in trained),
        )


def _active(module: Any) -> Any:
    """Return the copy that PEFT trains, if there is one, else the module."""
    copies = getattr(module, "modules_to_save", None)
    return module if copies is None else copies["default"]


def _learns(module: nn.Module) -> bool:
    return any(weight.requires_grad for weight in module.parameters())


def _describe(module: nn.Module) -> Any:
    weights = ((name, tuple(each.shape), each.dtype, each.requires_grad) for name, each in module.named_parameters())
    return type(module).__name__, tuple(weights)


def _sum_type(dtype: torch.dtype, autocast: torch.dtype | None) -> torch.dtype:
    """Return the type of a matrix product's sum for a weight of that type."""
    return dtype if autocast is None else torch.promote_types(dtype, autocast)
