"""Attention on a CPU whose gradients are matrix products.

torch's own backward pass for CPUs reaches a tenth of what bfloat16 products do on cores that have units for them (AMX).
A training step is 1.09 times as fast with this one (docs/performance.md). Here the weights of a few heads are computed
once more, by a product and a softmax, and the gradients by four products. The forward pass stays torch's own, bit for
bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

__all__ = ["PRODUCTS_ARE_FASTER", "attend_by_products"]

# Shape letters in this file
#   N sequences    H query heads    J heads of keys and values    G query heads that share one, H / J
#   T tokens    U keys    K channels of a head    B heads of keys of all sequences, N * J    R rows of queries, T * G
#   T and U in whole tiles where B stands before them; rows and keys beyond the real ones are zeros

# torch before 2.10 cannot tell what a processor has.
PRODUCTS_ARE_FASTER = bool(getattr(torch.cpu, "get_capabilities", dict)().get("amx_bf16", False))
"""Whether this processor has units for bfloat16 products. Measured with AMX only."""

_softmax_backward: Any = torch._softmax_backward_data  # pyright: ignore[reportPrivateImportUsage]  what autograd calls

_WEIGHTS_AT_ONCE = 2**21
"""Attention weights of a block: 4 MB in bfloat16, which caches hold. Of smaller blocks the calls cost more."""
_LEAST_TOKENS = 128
_TILE = 32
"""Tokens are filled up to whole tiles: a weight among 1,026 tokens takes a fifth longer than one among 1,056."""

_Block = tuple[slice, slice, slice]
"""Heads, rows and keys."""


def attend_by_products(
    query_NHTK: Tensor, key_NJUK: Tensor, value_NJUK: Tensor, *, is_causal: bool, scale: float | None
) -> Tensor:
    """Let each query see the keys of its own sequence.

    Args:
        query_NHTK: Queries, bfloat16 on a CPU.
        key_NJUK: Keys; J divides H. As many as queries where ``is_causal``.
        value_NJUK: Values.
        is_causal: Whether a query sees only keys up to its own place.
        scale: Factor before the softmax; ``1 / sqrt(K)`` if not given.

    Returns:
        Shaped as ``query_NHTK``.
    """
    scale = query_NHTK.shape[-1] ** -0.5 if scale is None else scale
    return _apply(query_NHTK, key_NJUK, value_NJUK, is_causal, scale)


class _AttentionByProducts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, is_causal: bool, scale: float) -> Tensor:
        ctx.save_for_backward(query, key, value)
        ctx.is_causal, ctx.scale = is_causal, scale
        is_grouped = query.shape[1] != key.shape[1]
        return scaled_dot_product_attention(query, key, value, is_causal=is_causal, scale=scale, enable_gqa=is_grouped)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query_NHTK, key_NJUK, value_NJUK = ctx.saved_tensors
        num_groups, num_keys = query_NHTK.shape[1] // key_NJUK.shape[1], key_NJUK.shape[2]
        query_BRK, output_BRK = (_rows_by_key_head(each, num_groups) for each in (query_NHTK, gradients[0]))
        key_BUK, value_BUK = (_rows_by_key_head(each, 1) for each in (key_NJUK, value_NJUK))
        d_query_BRK = torch.empty_like(query_BRK)
        d_key_BUK, d_value_BUK = (torch.zeros(key_BUK.shape) for _ in range(2))  # float32: blocks add to them
        blocks = list(
            _blocks(len(key_BUK), query_BRK.shape[1] // num_groups, key_BUK.shape[1], num_groups, ctx.is_causal)
        )
        scratch = _Scratch(blocks, key_BUK.dtype)
        later_RU = _later_keys(blocks, num_groups, key_BUK.dtype) if ctx.is_causal else None
        for heads, rows, keys in blocks:
            query, output = query_BRK[heads, rows], output_BRK[heads, rows]
            key, value = key_BUK[heads, keys], value_BUK[heads, keys]
            first, second, third = scratch.shaped(len(query), query.shape[1], key.shape[1])
            logits_BRU = torch.baddbmm(first, query, key.mT, beta=0, alpha=ctx.scale, out=first)
            if later_RU is None:
                logits_BRU[..., num_keys:] = float("-inf")
            else:  # the last keys are those of the rows themselves; those beyond the real ones are later than any
                own_BRU = logits_BRU[..., rows.start // num_groups :]
                own_BRU += later_RU[: own_BRU.shape[1], : own_BRU.shape[2]]
            weights_BRU = torch.softmax(logits_BRU, -1, out=second)
            d_weights_BRU = torch.bmm(output, value.mT, out=first)
            d_logits_BRU = _softmax_backward(d_weights_BRU, weights_BRU, -1, key.dtype, grad_input=third)
            d_query_BRK[heads, rows] = _product(d_logits_BRU, key, ctx.scale)
            d_key_BUK[heads, keys] += _product(d_logits_BRU.mT, query, ctx.scale)
            d_value_BUK[heads, keys] += torch.bmm(weights_BRU.mT, output)
        d_query = d_query_BRK.unflatten(1, (-1, num_groups))[:, : query_NHTK.shape[2]].transpose(1, 2)
        d_key, d_value = (each[:, :num_keys].to(key_NJUK.dtype) for each in (d_key_BUK, d_value_BUK))
        return d_query.reshape(query_NHTK.shape), d_key.view(key_NJUK.shape), d_value.view(key_NJUK.shape), None, None


_apply: Any = torch.compiler.disable(_AttentionByProducts.apply)


class _Scratch:
    """Memory for a block's weights, used again for the next: touching new memory costs as much as computing in it."""

    def __init__(self, blocks: list[_Block], dtype: torch.dtype) -> None:
        most = max(math.prod(part.stop - part.start for part in block) for block in blocks)
        self._flat = torch.empty(3, most, dtype=dtype)

    def shaped(self, *shape: int) -> list[Tensor]:
        """Three tensors of a shape; what they held is lost."""
        return [each[: math.prod(shape)].view(shape) for each in self._flat]


def _rows_by_key_head(heads_NHTK: Tensor, num_groups: int) -> Tensor:
    """Lay the G rows of a token that see the same keys one after another, and zeros up to a whole tile; (B, R, K)."""
    heads_BGTK = heads_NHTK.unflatten(1, (-1, num_groups)).flatten(0, 1)
    num_heads, _, num_tokens, width = heads_BGTK.shape
    rows_BTGK = heads_BGTK.new_empty(num_heads, _whole_tiles(num_tokens), num_groups, width)
    rows_BTGK[:, :num_tokens] = heads_BGTK.transpose(1, 2)
    rows_BTGK[:, num_tokens:] = 0
    return rows_BTGK.flatten(1, 2)


def _whole_tiles(num_tokens: int) -> int:
    return math.ceil(num_tokens / _TILE) * _TILE


def _blocks(num_heads: int, num_tokens: int, num_keys: int, num_groups: int, is_causal: bool) -> Iterator[_Block]:
    """Cut all attention weights into blocks: some heads, some rows, and the keys that these see."""
    tokens = max(_WEIGHTS_AT_ONCE // (num_keys * num_groups), _LEAST_TOKENS)
    if is_causal:  # in four blocks, rows see five eighths of all keys on average
        tokens = min(tokens, max(num_tokens // 4, _LEAST_TOKENS))
    tokens = min(_whole_tiles(tokens), num_tokens)
    heads = max(_WEIGHTS_AT_ONCE // (num_keys * num_groups * tokens), 1)
    for head in range(0, num_heads, heads):
        for token in range(0, num_tokens, tokens):
            end = min(token + tokens, num_tokens)
            keys = slice(0, end if is_causal else num_keys)
            yield slice(head, min(head + heads, num_heads)), slice(token * num_groups, end * num_groups), keys


def _product(left: Tensor, right: Tensor, scale: float) -> Tensor:
    return torch.baddbmm(left.new_empty(()), left, right, beta=0, alpha=scale)


def _later_keys(blocks: list[_Block], num_groups: int, dtype: torch.dtype) -> Tensor:
    """What hides from each row of the largest block, among the keys of these rows, those behind its token."""
    num_tokens = max(rows.stop - rows.start for _, rows, _ in blocks) // num_groups
    return (
        torch.full((num_tokens, num_tokens), float("-inf"), dtype=dtype).triu_(1).repeat_interleave(num_groups, dim=0)
    )
