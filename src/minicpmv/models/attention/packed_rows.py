"""Packed rows: several samples end to end in one row of the language model, none of which sees another.

Where samples begin goes down to the attention of every layer, where :func:`attend` needs no mask. Rows are packed by
whoever makes batches, and found by ``layout``, not here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from minicpmv.models.attention.varlen import attend

__all__ = ["PACKED_ATTENTION", "prefer_packed_attention"]

# Shape letters in this file
#   T tokens of all samples    H heads    K channels of a head

PACKED_ATTENTION = "varlen"
"""The language model's attention in transformers' register: PyTorch's sdpa, but by sequence where a row is packed."""


def _packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sequence_lengths: Sequence[int] | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend within each sample if their lengths came along, otherwise exactly as transformers' sdpa does."""
    if sequence_lengths is None:
        attended, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return attended, None
    query_THK, key_THK, value_THK = (tensor.transpose(1, 2).flatten(0, 1) for tensor in (query, key, value))
    attended_THK = attend(
        query_THK,
        key_THK,
        value_THK,
        query_lengths=sequence_lengths,
        key_lengths=sequence_lengths,
        is_causal=True,
        scale=scaling,
        dropout=dropout,
    )
    return attended_THK.unflatten(0, (len(query), -1)), None


def prefer_packed_attention(config: PreTrainedConfig) -> None:
    """Where a language model would use sdpa, by request or by default, let it use sdpa by sequence."""
    if config._attn_implementation in (None, "sdpa"):
        config._attn_implementation = PACKED_ATTENTION


AttentionInterface.register(PACKED_ATTENTION, _packed_attention)
AttentionMaskInterface.register(PACKED_ATTENTION, sdpa_mask)
