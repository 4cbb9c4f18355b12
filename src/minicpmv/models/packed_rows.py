"""Packed rows: several samples end to end in one row of the language model, none of which sees another.

A row is packed when its ``position_ids`` start anew within it and nothing masks it, which is how transformers marks
packed rows too. Its boundaries then go down to the attention of every layer, where :func:`attend` needs no mask. Rows
are packed by whoever makes batches, not here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from minicpmv.models.attention import attend

__all__ = ["PACKED_ATTENTION", "PackedRows", "find_packed_rows", "prefer_packed_attention"]

# Shape letters in this file
#   B rows    T tokens of a row    H heads    K channels of a head

PACKED_ATTENTION = "varlen"
"""The language model's attention in transformers' register: PyTorch's sdpa, but by sequence where a row is packed."""


@dataclass(frozen=True, slots=True)
class PackedRows:
    """Where the samples of packed rows begin."""

    starts_BT: Tensor
    """Bool, true at the first token of every sample."""
    lengths: tuple[int, ...]
    """Tokens of each sample, row after row; sums to B * T."""

    def count_by_sample(self, chosen_BT: Tensor) -> list[int]:
        """Count the true entries of a (B, T) bool tensor in each sample."""
        return [int(part.sum()) for part in chosen_BT.flatten().cpu().split(list(self.lengths))]

    def position_ids(self) -> Tensor:
        """Place of each token in its sample, from 0; (B, T) int64."""
        places = torch.cat([torch.arange(length) for length in self.lengths])
        return places.view_as(self.starts_BT).to(self.starts_BT.device)


def find_packed_rows(position_ids: Tensor | None, cu_seq_lens: Tensor | None = None) -> PackedRows | None:
    """Find the samples in rows that nothing masks and no cache precedes.

    Args:
        position_ids: (B, T) int64; a sample begins wherever a position is not its predecessor's next.
        cu_seq_lens: (samples + 1,) int, transformers' name for the offsets of the samples in a single row. Where given,
            they count instead.

    Returns:
        None where every row is one sample.

    Raises:
        ValueError: The offsets do not rise from 0, or not to the row's end.
    """
    if cu_seq_lens is not None:
        return _read_offsets(cu_seq_lens, position_ids)
    if position_ids is None:
        return None
    starts_BT = torch.ones_like(position_ids, dtype=torch.bool)
    starts_BT[:, 1:] = position_ids.diff(dim=1) != 1
    edges = starts_BT.flatten().nonzero().flatten().tolist()
    if len(edges) == len(position_ids):
        return None
    return PackedRows(starts_BT, tuple(end - start for start, end in pairwise([*edges, starts_BT.numel()])))


def _read_offsets(cu_seq_lens: Tensor, position_ids: Tensor | None) -> PackedRows | None:
    offsets = cu_seq_lens.tolist()
    lengths = tuple(end - start for start, end in pairwise(offsets))
    end = offsets[-1] if position_ids is None else position_ids.numel()
    if (
        offsets[0] != 0
        or offsets[-1] != end
        or min(lengths) < 1
        or (position_ids is not None and len(position_ids) != 1)
    ):
        raise ValueError(f"cu_seq_lens_q is {offsets}, expected offsets that rise from 0 to the end of a single row")
    starts_BT = torch.zeros(1, end, dtype=torch.bool, device=cu_seq_lens.device)
    starts_BT[0, cu_seq_lens[:-1].long()] = True
    return PackedRows(starts_BT, lengths) if len(lengths) > 1 else None


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
