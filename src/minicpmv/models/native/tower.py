"""Tower and merger of 4.6 and later, as transformers has them, on slices of any shape whose sizes the host knows.

The released classes ask the device for each slice's size, several times a layer. Here lengths and places come from the
host, attention is the one that all towers have, and patches are the flat rows that batches bring. What comes as the
released classes expect it, they compute.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from minicpmv.models.attention.varlen import Lengths, attend
from minicpmv.models.native.exchanged import exchange
from minicpmv.models.networks.flops import FlopWalk, walk_tower, walk_tower_layer
from minicpmv.models.networks.pixels import read_pixels
from minicpmv.models.networks.positions import fraction_buckets, grid_position_ids, window_order
from minicpmv.models.networks.siglip import PatchEmbedding, shapes_of_patches
from minicpmv.models.networks.steps import Step

if TYPE_CHECKING:
    from transformers.models.minicpmv4_6 import modeling_minicpmv4_6 as released

    _Tower, _Merger = released.MiniCPMV4_6VisionModel, released.MiniCPMV4_6Merger
    _WindowMerger, _Attention = released.MiniCPMV4_6ViTWindowAttentionMerger, released.MiniCPMV4_6VisionAttention
    _Embeddings = released.MiniCPMV4_6VisionEmbeddings
else:
    _Tower = _Merger = _WindowMerger = _Attention = _Embeddings = nn.Module

__all__ = ["SIDE", "NativeMerger", "NativeTower", "halve", "merges_inside"]

# Shape letters in this file
#   P patches of all slices    E vision width    W windows of 2 x 2 patches    N image tokens    D language width
#   H heads    K channels of a head

Size = tuple[int, int]

SIDE = 2
"""Patches along each side of the window that is merged at once."""
_UNMERGED = "4x"
"""The ``downsample_mode`` in which the tower merges nothing."""


def merges_inside(config: Any) -> bool:
    """Whether the tower merges windows between two of its layers, as the config has it now."""
    return config.downsample_mode != _UNMERGED


def halve(sizes: Sequence[Size]) -> list[Size]:
    """Return the rows and columns of slices whose windows are merged.

    Raises:
        ValueError: A slice is no whole number of windows.
    """
    for rows, columns in sizes:
        if rows % SIDE or columns % SIDE:
            raise ValueError(
                f"found a slice of {rows} x {columns} patches, expected sides that are whole multiples of {SIDE} at "
                "each merging; plan slices with the checkpoint's own processor"
            )
    return [(rows // SIDE, columns // SIDE) for rows, columns in sizes]


class _Patches(PatchEmbedding):
    """Embeds flat patches, or a picture as transformers lays it out."""

    def forward(self, patches_P588: Tensor) -> Tensor:
        return super().forward(patches_P588) if patches_P588.ndim == 2 else nn.Conv2d.forward(self, patches_P588)


class _EmbedsSlices(_Embeddings):
    """Embeds patches with their positions. FSDP2 gathers it as a whole when it is called."""

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, pixel_values: Tensor, *args: Any, sizes: Sequence[Size] | None = None, pixel_table: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:  # fmt: skip
        """
        Args:
            pixel_values: (P, 588).
            args: The released class's.
            sizes: Rows and columns of each slice.
            pixel_table: (3, 256) float.
            kwargs: The released class's.

        Returns:
            (P, E).
        """
        if sizes is None:
            return super().forward(pixel_values, *args, **kwargs)
        values = read_pixels(pixel_values, pixel_table, self.patch_embedding.weight.dtype)
        hidden_PE = self.patch_embedding(values)
        ids_P = grid_position_ids(sizes, self.num_patches_per_side, hidden_PE.device, fraction_buckets)
        return hidden_PE + self.position_embedding(ids_P)


class _AttendsByLength(_Attention):
    """Lets the patches of each sequence attend each other."""

    def forward(self, hidden_states: Tensor, *args: Any, lengths: Lengths | None = None, **kwargs: Any) -> Any:
        """
        Args:
            hidden_states: (1, P, E).
            args: The released class's.
            lengths: Patches of each sequence.
            kwargs: The released class's.
        """
        if lengths is None:
            return super().forward(hidden_states, *args, **kwargs)
        query_PHK, key_PHK, value_PHK = (
            project(hidden_states).flatten(0, 1).unflatten(-1, (-1, self.head_dim))
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        dropout = self.attention_dropout if self.training else 0.0
        attended_PHK = attend(
            query_PHK, key_PHK, value_PHK, query_lengths=lengths, key_lengths=lengths, dropout=dropout
        )
        return self.out_proj(attended_PHK.flatten(1))[None], None


class _MergesWindows(_WindowMerger):
    """Merges the windows between two layers of the tower."""

    def forward(self, hidden_states: Tensor, *args: Any, sizes: Sequence[Size] | None = None, **kwargs: Any) -> Any:
        """
        Args:
            hidden_states: (1, P, E).
            args: The released class's.
            sizes: Rows and columns of each slice.
            kwargs: The released class's.
        """
        if sizes is None:
            return super().forward(hidden_states, *args, **kwargs)
        order_P = window_order(sizes, SIDE, hidden_states.device)
        ordered_PE = hidden_states[0].index_select(0, order_P)
        lengths = Lengths([SIDE**2] * (len(ordered_PE) // SIDE**2))
        attended, _ = self.self_attn(self.layer_norm1(ordered_PE)[None], lengths=lengths)
        windows = (ordered_PE + attended[0]).unflatten(0, (-1, SIDE**2))
        merged_WE = self.linear_2(self.act(self.linear_1(self.pre_norm(windows.flatten(1)))))
        return (merged_WE + windows.mean(dim=1))[None]


class NativeTower(_Tower):
    """Makes features of slices; in 16x mode one of each window."""

    positions = "grid"
    release_config: Any
    """The whole model's, which says whether windows are merged."""

    def take_over(self, config: Any) -> None:
        """Exchange what is inside."""
        self.release_config = config
        exchange(self.embeddings, _EmbedsSlices)
        exchange(self.embeddings.patch_embedding, _Patches)
        exchange(self.vit_merger, _MergesWindows)
        layers: list[Any] = list(self.encoder.layers)
        for module in (self.vit_merger, *layers):
            exchange(module.self_attn, _AttendsByLength)

    @staticmethod
    def count_flops(walk: FlopWalk, name: str, config: Any) -> bool:
        """Add up what a step costs, see ``networks.flops``; return whether the result needs a gradient.

        Args:
            walk: What adds up.
            name: The tower's.
            config: The whole model's.
        """
        vision, last_before = config.vision_config, config.insert_layer_id
        if not merges_inside(config):
            return walk_tower(walk, name, vision)
        grad = walk_tower(walk, name, vision, range(last_before + 1))
        inner, width, area = f"{name}.vit_merger", vision.hidden_size, SIDE**2
        normed = grad or walk.trains(f"{inner}.layer_norm1")
        query, key, value = (
            walk.linear(f"{inner}.self_attn.{each}_proj", width, width, grad=normed, unit="patches") for each in "qkv"
        )
        attended = walk.attention(width, grads=(query, key, value), unit="patches", times=area)
        grad |= walk.linear(f"{inner}.self_attn.out_proj", width, width, grad=attended, unit="patches")
        grad |= walk.trains(f"{inner}.pre_norm")
        wide, wider = width * area, vision.intermediate_size * area
        merged = walk.linear(f"{inner}.linear_1", wide, wider, grad=grad, unit="patches", of=area)
        grad |= walk.linear(f"{inner}.linear_2", wider, width, grad=merged, unit="patches", of=area)
        for layer in range(last_before + 1, vision.num_hidden_layers):
            grad = walk_tower_layer(walk, f"{name}.encoder.layers.{layer}", vision, grad, of=area)
        return grad or walk.trains(f"{name}.post_layernorm")

    def steps(self, sizes: Sequence[Size]) -> Iterator[Step]:
        """Yield the steps of its forward pass, see ``networks.steps``, for slices of these rows and columns."""
        embeddings, name = self.embeddings, "vision tower"

        def embed(patches_P588: Tensor, places_P: Tensor) -> Tensor:
            values_P588 = patches_P588.to(embeddings.patch_embedding.weight.dtype)
            return (embeddings.patch_embedding(values_P588) + embeddings.position_embedding(places_P))[None]

        yield Step(name, [embeddings], embed, shapes_of_patches(sizes, embeddings.patch_embedding))
        lengths = _lengths_of(sizes)
        for number, layer in enumerate(self.encoder.layers):
            yield Step(name, [layer], partial(_run_layer, layer, lengths), is_layer=True)
            if number == self._merges_behind():
                yield Step(name, [self.vit_merger], partial(self.vit_merger, sizes=sizes))
                sizes = halve(sizes)
                lengths = _lengths_of(sizes)
        yield Step(name, [self.post_layernorm], lambda hidden: self.post_layernorm(hidden)[0])

    def _merges_behind(self) -> int | None:
        """Number of the layer behind which windows are merged; None where they are not."""
        return self.config.insert_layer_id if merges_inside(self.release_config) else None

    def get_input_embeddings(self) -> nn.Module:
        """Override transformers: PEFT and gradient checkpointing ask for it."""
        return self.embeddings.patch_embedding

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        pixel_values: Tensor,
        sizes: Sequence[Size] | None = None,
        slices_per_sample: Sequence[int] = (),
        pixel_table: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """
        Args:
            pixel_values: (P, 588), flattened patches of all slices, end to end. Float, or uint8.
            sizes: Rows and columns of each slice, in patches; their products sum to P.
            slices_per_sample: Does not matter here.
            pixel_table: (3, 256) float, the value of each byte in each channel; needed where patches are bytes.
            kwargs: The released class's.

        Returns:
            (P, E), one feature for each patch, or (P / 4, E), for each window.
        """
        if sizes is None:
            return super().forward(pixel_values, **kwargs)
        hidden = self.embeddings(pixel_values, sizes=sizes, pixel_table=pixel_table)[None]
        lengths = _lengths_of(sizes)
        last_before = self._merges_behind()
        for number, layer in enumerate(self.encoder.layers):
            hidden = _run_layer(layer, lengths, hidden)
            if number == last_before:
                smaller = halve(sizes)
                hidden = self.vit_merger(hidden, sizes=sizes)
                lengths = _lengths_of(smaller)
        return self.post_layernorm(hidden)[0]


def _run_layer(layer: nn.Module, lengths: Lengths, hidden: Tensor) -> Tensor:
    return layer(hidden, None, lengths=lengths)


def _lengths_of(sizes: Sequence[Size]) -> Lengths:
    return Lengths([rows * columns for rows, columns in sizes])


class NativeMerger(_Merger):
    """Makes image tokens of windows of features."""

    @staticmethod
    def count_flops(walk: FlopWalk, name: str, config: Any, grad: bool) -> bool:
        """Add up what a step costs, see ``networks.flops``; return whether the result needs a gradient.

        Args:
            walk: What adds up.
            name: The merger's.
            config: The whole model's.
            grad: Whether what it is given needs one.
        """
        width, of = config.vision_config.hidden_size * SIDE**2, config.token_rule.side**2
        grad = grad or walk.trains(f"{name}.mlp.0.pre_norm")
        inner = walk.linear(f"{name}.mlp.0.linear_1", width, width, grad=grad, unit="resampled_patches", of=of)
        hidden = config.text_config.hidden_size
        return walk.linear(f"{name}.mlp.0.linear_2", width, hidden, grad=inner, unit="resampled_patches", of=of)

    def steps(self, sizes: Sequence[Size]) -> Iterator[Step]:
        """Yield its one step, see ``networks.steps``, for slices of these rows and columns in features."""
        yield Step("resampler", [self], lambda features_PE: self(features_PE, sizes))

    def forward(self, hidden_states: Tensor, sizes: Any, times: None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """
        Args:
            hidden_states: (P, E), features of all slices, end to end; what the released class takes has three axes.
            sizes: Rows and columns of each slice, in features.
            times: None; nothing here has time.

        Returns:
            (N, D), the tokens of all slices, end to end.
        """
        if hidden_states.ndim != 2:
            return super().forward(hidden_states, sizes)
        for merge in self.mlp:
            smaller = halve(sizes)
            order = window_order(sizes, SIDE, hidden_states.device)
            windows = hidden_states.index_select(0, order).unflatten(0, (-1, SIDE**2))
            hidden_states, sizes = merge(windows.flatten(1)), smaller
        return hidden_states
