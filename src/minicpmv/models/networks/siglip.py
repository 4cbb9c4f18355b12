"""The vision tower: patches of all slices of a batch in, one feature for each patch out.

One SigLIP tower serves every release; they differ in how a patch learns where it is and, for 2.5, in attending padding.
It neither cuts pictures into patches (``processing.pictures.patches``) nor compresses them (``resampler``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import PreTrainedModel, SiglipVisionConfig
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer

from minicpmv.models.attention.varlen import Lengths, attend
from minicpmv.models.networks.flops import FlopWalk, walk_tower
from minicpmv.models.networks.pixels import read_pixels
from minicpmv.models.networks.positions import grid_position_ids, resize_table, row_position_ids
from minicpmv.models.networks.steps import Shape, Step
from minicpmv.releases.row import PositionScheme

__all__ = ["TimmVisionTower", "VisionTower", "shapes_of_patches"]

# Shape letters in this file
#   P patches of all slices    E vision width    H heads    K channels of a head    N cells of the position table


class PatchEmbedding(nn.Conv2d):
    """A convolution whose stride is its kernel, applied to patches that are cut already: one matrix product.

    It stays a convolution so that the released weight keeps its shape, (E, 3, side, side).
    """

    def forward(self, patches_P588: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Multiply each flattened patch with the kernel; (P, E) in the dtype of the weight."""
        return linear(patches_P588, self.weight.flatten(1), self.bias)


class VisionEmbeddings(nn.Module):
    """Hold the patch kernel and the learned table of positions, (N, E).

    It has no ``forward``: how a patch's position is looked up differs by release, so ``VisionTower`` does it.
    """

    def __init__(self, config: SiglipVisionConfig) -> None:
        super().__init__()
        # transformers types both as int or a pair; every release has squares.
        side, image_side = cast("int", config.patch_size), cast("int", config.image_size)
        self.table_side = image_side // side
        self.patch_embedding = PatchEmbedding(config.num_channels, config.hidden_size, kernel_size=side, stride=side)
        self.position_embedding = nn.Embedding(self.table_side**2, config.hidden_size)


class VisionAttention(nn.Module):
    """Self-attention among the patches of each slice."""

    def __init__(self, config: SiglipVisionConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.head_width = width // config.num_attention_heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, hidden_PE: Tensor, lengths: Sequence[int]) -> Tensor:
        """Let the patches of each slice attend each other; (P, E).

        Args:
            hidden_PE: Patches of all slices, end to end.
            lengths: Patches of each slice; they sum to P.
        """
        query_PHK, key_PHK, value_PHK = (
            project(hidden_PE).unflatten(-1, (-1, self.head_width))
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        attended_PHK = attend(query_PHK, key_PHK, value_PHK, query_lengths=lengths, key_lengths=lengths)
        return self.out_proj(attended_PHK.flatten(1))


class VisionMLP(nn.Module):
    """Apply two linear layers with an activation between them, to each patch alone."""

    def __init__(self, config: SiglipVisionConfig) -> None:
        super().__init__()
        self.activation = ACT2FN[config.hidden_act]
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_PE: Tensor) -> Tensor:
        """Widen, activate and narrow again; (P, E)."""
        return self.fc2(self.activation(self.fc1(hidden_PE)))


class VisionEncoderLayer(GradientCheckpointingLayer):
    """Apply attention and an MLP, each to normalised patches, and add what they give to the patches."""

    def __init__(self, config: SiglipVisionConfig) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = VisionAttention(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = VisionMLP(config)

    def forward(self, hidden_PE: Tensor, lengths: Sequence[int]) -> Tensor:
        """Return the patches after one layer; (P, E).

        Args:
            hidden_PE: Patches of all slices, end to end.
            lengths: Patches of each slice; they sum to P.
        """
        hidden_PE = hidden_PE + self.self_attn(self.layer_norm1(hidden_PE), lengths)
        return hidden_PE + self.mlp(self.layer_norm2(hidden_PE))


class VisionEncoder(nn.Module):
    """Apply the layers one after another; transformers asks ``gradient_checkpointing`` of it."""

    def __init__(self, config: SiglipVisionConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(VisionEncoderLayer(config) for _ in range(config.num_hidden_layers))
        self.gradient_checkpointing = False

    def forward(self, hidden_PE: Tensor, lengths: Sequence[int]) -> Tensor:
        """Return the patches after the last layer; (P, E).

        Args:
            hidden_PE: Patches of all slices, end to end.
            lengths: Patches of each slice; they sum to P. Prepared once for the attention of all layers.
        """
        lengths = Lengths(lengths)
        for layer in self.layers:
            hidden_PE = layer(hidden_PE, lengths)
        return hidden_PE


class VisionTower(PreTrainedModel):
    """Compute the features of slices of any shape with SigLIP.

    Source: the layers are those of transformers' models/siglip/modeling_siglip.py, without padding between slices.

    Args:
        config: Sizes, activation and position table of the checkpoint.
        positions: How a patch learns where it is; see ``Network.vision_positions``.
    """

    config_class = SiglipVisionConfig
    base_model_prefix = "vpm"
    main_input_name = "patches_P588"
    input_modalities = ["image"]
    supports_gradient_checkpointing = True
    # Whatever is chosen for the language model, slices are attended by `attend`; these only keep transformers content.
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _no_split_modules = ["VisionEncoderLayer", "VisionEmbeddings"]

    def __init__(self, config: SiglipVisionConfig, *, positions: PositionScheme) -> None:
        super().__init__(config)
        self.positions: PositionScheme = positions
        self.embeddings = VisionEmbeddings(config)
        self.encoder = VisionEncoder(config)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    @staticmethod
    def count_flops(walk: FlopWalk, name: str, config: Any) -> bool:
        """Add up what a step costs, see ``flops``; return whether the result needs a gradient.

        Args:
            walk: What adds up.
            name: The tower's.
            config: The whole model's.
        """
        return walk_tower(walk, name, config.vision_config)

    def steps(self, sizes: Sequence[tuple[int, int]]) -> Iterator[Step]:
        """Yield the steps of its forward pass, see ``steps``, for slices of these rows and columns in patches."""
        lengths, embeddings = [rows * columns for rows, columns in sizes], self.embeddings

        def embed(patches_P588: Tensor, places_P: Tensor) -> Tensor:
            values_P588 = patches_P588.to(embeddings.patch_embedding.weight.dtype)
            if self.positions == "row":
                values_P588 = values_P588.clone()  # 2.5 pads it
            return embeddings.patch_embedding(values_P588) + embeddings.position_embedding(places_P)

        yield Step("vision tower", [embeddings], embed, shapes_of_patches(sizes, embeddings.patch_embedding))
        for layer in self.encoder.layers:
            run = partial(_run_layer, layer, lengths)
            yield Step("vision tower", [layer], run, is_layer=True)
        yield Step("vision tower", [self.post_layernorm], self.post_layernorm)

    def get_input_embeddings(self) -> nn.Module:
        """Override transformers, which cannot guess the name: PEFT and gradient checkpointing ask for it."""
        return self.embeddings.patch_embedding

    def forward(
        self,
        patches_P588: Tensor,
        sizes: Sequence[tuple[int, int]],
        slices_per_sample: Sequence[int],
        pixel_table: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        """
        Args:
            patches_P588: Flattened patches of all slices, end to end, each slice row by row. Float, or uint8.
            sizes: Rows and columns of each slice, in patches; their products sum to P.
            slices_per_sample: Slices of each sample, in order; sums to ``len(sizes)``. Only 2.5 looks at it.
            pixel_table: (3, 256) float, the value of each byte in each channel; needed where patches are bytes.

        Returns:
            (P, E), one feature for each patch, in the tower's dtype.
        """
        lengths = [rows * columns for rows, columns in sizes]
        if self.positions != "row":
            hidden_PE = self.embeddings.patch_embedding(self._read(patches_P588, pixel_table))
            hidden_PE = hidden_PE + self._own_positions(sizes, hidden_PE.device)
            return self.post_layernorm(self.encoder(hidden_PE, lengths))

        # 2.5 attends its padding and was trained so: each slice is padded with zero pixels to the longest slice of the
        # same sample, and every position depends on that length. Per sample rather than per batch, as the released
        # chat() computes it, so that a sample's features do not depend on its batch mates.
        padded = [longest for count, longest in _longest_of_each(lengths, slices_per_sample) for _ in range(count)]
        hidden_PE = self.embeddings.patch_embedding(_pad_slices(self._read(patches_P588, pixel_table), lengths, padded))
        ids = row_position_ids(padded, self.embeddings.table_side, hidden_PE.device)
        hidden_PE = hidden_PE + self.embeddings.position_embedding(ids)
        hidden_PE = self.post_layernorm(self.encoder(hidden_PE, padded))
        return torch.cat([strip[:n] for strip, n in zip(hidden_PE.split(padded), lengths, strict=True)])

    def _read(self, patches_P588: Tensor, pixel_table: Tensor | None) -> Tensor:
        # Here and not in the model around it: once patches are embedded, nothing holds their values any more.
        return read_pixels(patches_P588, pixel_table, self.embeddings.patch_embedding.weight.dtype)

    # It is told the device: the tower's own is "meta" while its weights are offloaded.
    def _own_positions(self, sizes: Sequence[tuple[int, int]], device: torch.device) -> Tensor:
        if self.positions == "grid":
            return self.embeddings.position_embedding(grid_position_ids(sizes, self.embeddings.table_side, device))
        # The table is read through its module, so that sharding engines gather it first.
        every_cell = torch.arange(self.embeddings.table_side**2, device=device)
        table_NE = self.embeddings.position_embedding(every_cell)
        resized = {size: resize_table(table_NE, *size) for size in dict.fromkeys(sizes)}
        return torch.cat([resized[size] for size in sizes])


class TimmVisionTower(VisionTower):
    """The same tower for MiniCPM-V-2, whose checkpoint has timm's key names; ``checkpoint`` converts by this class."""


def shapes_of_patches(sizes: Sequence[tuple[int, int]], embedding: nn.Conv2d) -> tuple[Shape, Shape]:
    """Return the shapes of the bytes of slices and of the cells of their patches in the table of positions.

    What reads them, ``read_pixels`` and ``positions``, looks up piece by piece, which takes long to follow and needs
    less than the embeddings of the patches at any released width.
    """
    num_patches = sum(rows * columns for rows, columns in sizes)
    num_values = embedding.in_channels * embedding.kernel_size[0] * embedding.kernel_size[1]
    return ((num_patches, num_values), torch.uint8), ((num_patches,), torch.int64)


def _run_layer(layer: nn.Module, lengths: Sequence[int], hidden_PE: Tensor) -> Tensor:
    return layer(hidden_PE, lengths)


def _longest_of_each(lengths: Sequence[int], slices_per_sample: Sequence[int]) -> list[tuple[int, int]]:
    """(number of slices, longest of them) for each sample that has slices."""
    found, start = [], 0
    for count in slices_per_sample:
        if count:
            found.append((count, max(lengths[start : start + count])))
        start += count
    return found


def _pad_slices(patches_P588: Tensor, lengths: Sequence[int], padded: Sequence[int]) -> Tensor:
    strips = patches_P588.split(list(lengths))
    return torch.cat(
        [nn.functional.pad(strip, (0, 0, 0, target - len(strip))) for strip, target in zip(strips, padded, strict=True)]
    )
