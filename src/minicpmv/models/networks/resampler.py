"""The resampler: any number of patch features of a slice in, a fixed number of language tokens out.

One cross-attention layer with learned queries serves every release. Keys carry a sine position, so one set of weights
serves every slice shape; values carry none. In 4.5 the frames of a group share one set of queries, and their keys carry
the time as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from minicpmv.models.attention.varlen import attend
from minicpmv.models.networks.flops import FlopWalk
from minicpmv.models.networks.positions import SinePositions, find_patches
from minicpmv.models.networks.steps import Step

__all__ = ["Resampler"]

# Shape letters in this file
#   P patches of all slices    S slices    G blocks of queries: slices, or groups of frames    Q queries of a block
#   E vision width    D language width    H heads    K channels of a head

_HEAD_WIDTH = 128  # every release has hidden_size // 128 heads
_LAYER_NORM_EPS = 1e-6


class CrossAttention(nn.Module):
    """Multi-head attention with torch's ``MultiheadAttention`` parameters, over sequences of unequal length."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, query_QD: Tensor, key_PD: Tensor, value_PD: Tensor, lengths: Sequence[int]) -> Tensor:
        """Let the same queries attend every sequence of keys; (G * Q, D).

        Args:
            query_QD: Queries of one block, the same for all.
            key_PD: Keys of all blocks, end to end.
            value_PD: What each key gives.
            lengths: Keys of each block; they sum to P.
        """
        weights = self.in_proj_weight.chunk(3)
        biases = self.in_proj_bias.chunk(3)
        query_QHK, key_PHK, value_PHK = (
            linear(tensor, weight, bias).unflatten(-1, (self.num_heads, -1))
            for tensor, weight, bias in zip((query_QD, key_PD, value_PD), weights, biases, strict=True)
        )
        query_THK = query_QHK.repeat(len(lengths), 1, 1)
        query_lengths = [len(query_QD)] * len(lengths)
        attended_THK = attend(query_THK, key_PHK, value_PHK, query_lengths=query_lengths, key_lengths=lengths)
        return self.out_proj(attended_THK.flatten(1))


class Resampler(nn.Module):
    """Compress the patches of each slice into ``num_queries`` tokens of the language model's width.

    Source: arXiv:2408.01800, section 3.1 (architecture, adaptive visual encoding).

    Args:
        num_queries: Tokens for each slice.
        vision_dim: Width of the tower's features.
        language_dim: Width of the language model; a multiple of 128.
        query_positions: Whether stored positions are added to the queries (2.0). They are saved but never trained.
    """

    pos_embed: Tensor | None

    def __init__(self, *, num_queries: int, vision_dim: int, language_dim: int, query_positions: bool) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.empty(num_queries, language_dim))
        # The released code omits the projection when the widths agree; llama.cpp cannot run such a checkpoint.
        same = vision_dim == language_dim
        self.kv_proj = nn.Identity() if same else nn.Linear(vision_dim, language_dim, bias=False)
        self.attn = CrossAttention(language_dim, num_heads=language_dim // _HEAD_WIDTH)
        self.ln_q = nn.LayerNorm(language_dim, eps=_LAYER_NORM_EPS)
        self.ln_kv = nn.LayerNorm(language_dim, eps=_LAYER_NORM_EPS)
        self.ln_post = nn.LayerNorm(language_dim, eps=_LAYER_NORM_EPS)
        self.proj = nn.Parameter(torch.empty(language_dim, language_dim))
        # A buffer, because loading would make a parameter trainable again, and the release never trained it.
        self.register_buffer("pos_embed", torch.empty(num_queries, language_dim) if query_positions else None)
        self.positions = SinePositions(language_dim)

    @classmethod
    def of_config(cls, config: Any) -> Resampler:
        """Make the resampler of a ``MiniCPMVConfig``."""
        return cls(
            num_queries=config.query_num,
            vision_dim=config.vision_config.hidden_size,
            language_dim=config.text_config.hidden_size,
            query_positions=config.minicpmv_version.network.query_positions,
        )

    @staticmethod
    def count_flops(walk: FlopWalk, name: str, config: Any, grad: bool) -> bool:
        """Count a resampler's operations for ``flops``; return whether its tokens need a gradient.

        Args:
            walk: Adds them up.
            name: Full name of the module.
            config: A ``MiniCPMVConfig``.
            grad: Whether the tower's features need a gradient.
        """
        vision, width, num_queries = config.vision_config.hidden_size, config.text_config.hidden_size, config.query_num
        if vision != width:
            grad = walk.linear(f"{name}.kv_proj", vision, width, grad=grad, unit="resampled_patches")
        grad |= walk.trains(f"{name}.ln_kv")
        query = walk.trains(f"{name}.query") or walk.trains(f"{name}.ln_q")

        def project(grad: bool, *, unit: str, times: int = 1) -> bool:
            # One parameter for all three, and one for their biases.
            joint = f"{name}.attn.in_proj_weight"
            grad = walk.linear("", width, width, grad=grad, unit=unit, times=times, weight=joint)
            return grad or walk.trains(f"{name}.attn.in_proj_bias")

        query = project(query, unit="image_batches", times=num_queries)
        key, value = project(grad, unit="resampled_patches"), project(grad, unit="resampled_patches")
        grad = walk.attention(width, grads=(query, key, value), unit="resampled_patches", times=num_queries)
        grad = walk.linear(f"{name}.attn.out_proj", width, width, grad=grad, unit="blocks", times=num_queries)
        grad |= walk.trains(f"{name}.ln_post")
        return walk.linear("", width, width, grad=grad, unit="blocks", times=num_queries, weight=f"{name}.proj")

    def steps(self, sizes: Sequence[tuple[int, int]]) -> Iterator[Step]:
        """Yield its one step, see ``steps``, for slices of these rows and columns in patches."""
        # Made now: the table of positions is kept for all batches.
        for dtype in (torch.float32, next(self.parameters()).dtype):
            self.positions.of_grid(list(dict.fromkeys(sizes)), torch.device("cpu"), dtype)
        yield Step("resampler", [self], lambda features_PE: self(features_PE, sizes))

    def forward(
        self,
        features_PE: Tensor,
        sizes: Sequence[tuple[int, int]],
        temporal_ids: Sequence[tuple[int, int]] | None = None,
    ) -> Tensor:
        """
        Args:
            features_PE: Tower features of all slices, end to end.
            sizes: Rows and columns of each slice, in patches; their products sum to P.
            temporal_ids: For each slice, 1 if it opens a block of queries or 0 if it joins the slice before, and its
                time index or -1 (4.5). Without it every slice has a block of its own and no time.

        Returns:
            (G, Q, D), the tokens of each block, in the dtype of ``features_PE``.

        Raises:
            ValueError: ``temporal_ids`` does not describe the slices.
        """
        value_PD = self.ln_kv(self.kv_proj(features_PE))
        lengths = [rows * columns for rows, columns in sizes]
        if temporal_ids is None:
            position_PD = self.positions.of_grid(sizes, value_PD.device, value_PD.dtype)
        else:
            _check_temporal_ids(temporal_ids, len(sizes))
            position_PD = self.positions.of_grid(sizes, value_PD.device, torch.float32)
            times_SD = self.positions.of_times([time for _, time in temporal_ids], value_PD.device)
            # Rounded once, after the sum, as released.
            position_PD = (position_PD + times_SD[find_patches(sizes, value_PD.device).slice_P]).to(value_PD.dtype)
            lengths = _join_groups(lengths, temporal_ids)
        key_PD = value_PD + position_PD
        query_QD = self.ln_q(self.query)
        if self.pos_embed is not None:
            query_QD = query_QD + self.pos_embed.to(query_QD.dtype)  # FSDP2 casts parameters, and this is a buffer
        tokens_TD = self.attn(query_QD, key_PD, value_PD, lengths)
        # `proj` multiplies from the right: a bare parameter, not a transposed Linear weight.
        return (self.ln_post(tokens_TD) @ self.proj).unflatten(0, (len(lengths), -1))


def _check_temporal_ids(temporal_ids: Sequence[tuple[int, int]], num_slices: int) -> None:
    if (
        len(temporal_ids) != num_slices
        or any(opens not in (0, 1) for opens, _ in temporal_ids)
        or not temporal_ids[0][0]
    ):
        raise ValueError(
            f"temporal_ids are {list(temporal_ids)}, expected one (opens, time) for each of {num_slices} slices, "
            "opens being 0 or 1 and the first 1"
        )


def _join_groups(lengths: Sequence[int], temporal_ids: Sequence[tuple[int, int]]) -> list[int]:
    """Add up the patches of the slices that share a block of queries."""
    joined: list[int] = []
    for length, (opens, _) in zip(lengths, temporal_ids, strict=True):
        if opens:
            joined.append(length)
        else:
            joined[-1] += length
    return joined
