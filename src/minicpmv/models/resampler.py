"""The resampler: any number of patch features of a slice in, a fixed number of language tokens out.

One cross-attention layer with learned queries serves every release. Keys carry a sine position, so one set of weights
serves every slice shape; values carry none.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from minicpmv.models.attention import attend
from minicpmv.models.positions import sincos_grid

__all__ = ["Resampler"]

# Shape letters in this file
#   P patches of all slices    S slices    Q queries    E vision width    D language width    H heads    K of a head

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
        """Let the same queries look at every slice; (S * Q, D)."""
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

    def forward(self, features_PE: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
        """
        Args:
            features_PE: Tower features of all slices, end to end.
            sizes: Rows and columns of each slice, in patches; their products sum to P.

        Returns:
            (S, Q, D), the tokens of each slice, in the dtype of ``features_PE``.
        """
        value_PD = self.ln_kv(self.kv_proj(features_PE))
        width = value_PD.shape[-1]
        position_PD = torch.cat([sincos_grid(rows, columns, width) for rows, columns in sizes])
        key_PD = value_PD + position_PD.to(device=value_PD.device, dtype=value_PD.dtype)
        query_QD = self.ln_q(self.query)
        if self.pos_embed is not None:
            query_QD = query_QD + self.pos_embed
        tokens_TD = self.attn(query_QD, key_PD, value_PD, [rows * columns for rows, columns in sizes])
        # `proj` multiplies from the right: a bare parameter, not a transposed Linear weight.
        return (self.ln_post(tokens_TD) @ self.proj).unflatten(0, (len(sizes), -1))
