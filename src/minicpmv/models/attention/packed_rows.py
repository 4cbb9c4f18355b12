"""Packed rows: several samples end to end in one row of the language model, none of which sees another.

Where samples begin goes down to the attention of every layer, where :func:`attend` needs no mask. Rows are packed by
whoever makes batches, and found by ``layout``, not here. Padded rows have a mask, which is made here where the host
knows what is padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import create_causal_mask, sdpa_mask

from minicpmv.models.attention.branches import Branches
from minicpmv.models.attention.varlen import attend

__all__ = [
    "PACKED_ATTENTION",
    "by_kind",
    "is_hybrid",
    "mask_rows",
    "nothing_masked",
    "prefer_packed_attention",
]

# Shape letters in this file
#   B rows    T tokens of a row, or of all samples    D width    H heads    K channels of a head

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
        if attention_mask is not None and attention_mask.numel() == 1:
            attention_mask = None
        attended, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return attended, None
    query_THK, key_THK, value_THK = (tensor.transpose(1, 2).flatten(0, 1) for tensor in (query, key, value))
    key_lengths = sequence_lengths
    if isinstance(sequence_lengths, Branches):
        places = sequence_lengths.key_places(key.device)
        key_THK, value_THK = (each.index_select(0, places) for each in (key_THK, value_THK))
        key_lengths = sequence_lengths.keys
    attended_THK = attend(
        query_THK,
        key_THK,
        value_THK,
        query_lengths=sequence_lengths,
        key_lengths=key_lengths,
        is_causal=True,
        scale=scaling,
        dropout=dropout,
    )
    return attended_THK.unflatten(0, (len(query), -1)), None


def nothing_masked(device: torch.device) -> Tensor:
    """Return a mask for rows without padding, (1, 1, 1, 1), which transformers passes on because it has four axes."""
    return torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device)


def is_hybrid(config: PreTrainedConfig) -> bool:
    """Whether some of a language model's layers carry a state from token to token instead of attending (4.6)."""
    return "linear_attention" in (getattr(config, "layer_types", None) or ())


def by_kind(config: PreTrainedConfig, attended: Tensor | None, padding: Tensor | None) -> Any:
    """Return the masks of a language model's layers as transformers passes them on.

    Args:
        config: The language model's.
        attended: For layers that attend.
        padding: (B, T), for those that carry a state; None where nothing is padded.
    """
    return {"full_attention": attended, "linear_attention": padding} if is_hybrid(config) else attended


def mask_rows(config: PreTrainedConfig, embeds_BTD: Tensor, mask_BT: Tensor | None, lengths: Sequence[int]) -> Any:
    """Make the mask that transformers would make of rows of one sample each, without asking the device for it.

    transformers looks whether a mask hides anything, once or twice, and the host waits for each look.

    Args:
        config: The language model's.
        embeds_BTD: What will attend.
        mask_BT: 1 on real tokens; None if all are.
        lengths: Real tokens of each row.
    """
    if min(lengths) == embeds_BTD.shape[1]:
        return by_kind(config, nothing_masked(embeds_BTD.device), None)
    mask = create_causal_mask(config, embeds_BTD, mask_BT, None, allow_is_causal_skip=False)
    return by_kind(config, mask, mask_BT)


def prefer_packed_attention(config: PreTrainedConfig) -> None:
    """Where a language model would use sdpa, by request or by default, let it use sdpa by sequence."""
    if config._attn_implementation in (None, "sdpa"):
        config._attn_implementation = PACKED_ATTENTION


AttentionInterface.register(PACKED_ATTENTION, _packed_attention)
AttentionMaskInterface.register(PACKED_ATTENTION, sdpa_mask)
