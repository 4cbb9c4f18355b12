"""Attention over sequences of unequal length that lie end to end: nothing is padded, so nothing is masked.

The one primitive under the vision tower, the resampler and packed rows of the language model. On CUDA in half precision
one variable-length kernel serves all sequences, where the card has it (``attention_kernel``). Everywhere else sequences
of equal length are attended together, which on a CPU beats both a loop over sequences and a block mask; gradients in
bfloat16 come there from ``attention_products``. It deliberately knows neither projections nor positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from minicpmv.models.attention.kernel import aligns_at_the_end, attend_by_kernel, has_kernel
from minicpmv.models.attention.products import PRODUCTS_ARE_FASTER, attend_by_products

__all__ = ["Lengths", "attend", "never_compiled", "without_products"]

# Shape letters in this file
#   T tokens of all sequences    N sequences of one shape    H heads    K channels of a head

_Function = TypeVar("_Function", bound=Callable[..., Any])


def never_compiled(function: _Function) -> _Function:
    """Leave a function out of compiled programs: what it reads is different in nearly every batch."""
    return cast("Any", torch.compiler.disable)(function)  # whose types lose the function's own


class Lengths(Sequence[int]):
    """Tokens of each sequence, on their way through compiled layers to the attention.

    Of a tuple every number would be part of the compiled program, and each batch compiled anew.
    """

    def __init__(self, of_each: Sequence[int]) -> None:
        self._of_each = tuple(of_each)
        self._offsets: dict[torch.device, Tensor] = {}
        self._apart: dict[tuple[int, torch.device], Tensor] = {}

    def __len__(self) -> int:
        return len(self._of_each)

    def __getitem__(self, index: Any) -> Any:
        return self._of_each[index]

    @never_compiled
    def offsets(self, device: torch.device) -> Tensor:
        """Say where each sequence starts, and where the last one ends; (sequences + 1,) int32.

        Made once for each device, since every layer asks.
        """
        if device not in self._offsets:
            # Made under inference_mode, they could not be kept for a backward pass later.
            with torch.inference_mode(False):
                self._offsets[device] = self._make_offsets(device)
        return self._offsets[device]

    def _make_offsets(self, device: torch.device) -> Tensor:
        if len(set(self._of_each)) == 1:  # such as windows, of which there may be too many to send without a wait
            length = self._of_each[0]
            return torch.arange(0, length * len(self) + 1, length, dtype=torch.int32, device=device)
        on_host = torch.tensor([0, *accumulate(self._of_each)], dtype=torch.int32)
        return on_host.to(device, non_blocking=True)

    @never_compiled
    def apart(self, gap: int, device: torch.device) -> Tensor:
        """Say where each token is if so many empty places stand before every sequence; (all tokens,) int64.

        Made once for each device and gap, since every layer asks.
        """
        if (gap, device) not in self._apart:
            starts = self.offsets(device)
            with torch.inference_mode(False):
                count = torch.arange(1, len(self) + 1, device=device)
                number_T = count.repeat_interleave(starts.diff(), output_size=sum(self))
                self._apart[gap, device] = torch.arange(len(number_T), device=device) + gap * number_T
        return self._apart[gap, device]


# Which sequences are alike is data.
@never_compiled
def attend(
    query_THK: Tensor,
    key_THK: Tensor,
    value_THK: Tensor,
    *,
    query_lengths: Sequence[int],
    key_lengths: Sequence[int],
    is_causal: bool = False,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Let every query see the keys of its own sequence and no others.

    Args:
        query_THK: Queries of all sequences, end to end. Float.
        key_THK: Keys, end to end in the same order; the number of tokens may differ from the queries'. Keys and values
            may have fewer heads, each then serving as many query heads in a row.
        value_THK: Values, one for each key.
        query_lengths: Tokens of each sequence in ``query_THK``; sums to its length.
        key_lengths: Tokens of each sequence in ``key_THK``; one for each entry of ``query_lengths``.
        is_causal: Whether a query sees only keys up to its own place. The last query and the last key of a sequence
            are at the same place; a sequence may have more keys than queries then, not fewer.
        scale: Factor before the softmax; ``1 / sqrt(K)`` if not given.
        dropout: Share of attention weights to drop.

    Returns:
        Shaped and typed as ``query_THK``.
    """
    assert len(query_lengths) == len(key_lengths), "one key length for each query length"
    if query_THK.is_cuda and torch.is_autocast_enabled("cuda"):
        # As autocast itself does for sdpa, but the kernel is chosen by what it will read: rotary angles are float32.
        half = torch.get_autocast_dtype("cuda")
        query_THK, key_THK, value_THK = (each.to(half) for each in (query_THK, key_THK, value_THK))
    is_branched = is_causal and list(query_lengths) != list(key_lengths)
    # It drops nothing.
    if dropout == 0.0 and has_kernel(query_THK) and (not is_branched or aligns_at_the_end(query_THK.device)):
        return _attend_by_kernel(
            query_THK, key_THK, value_THK, _as_lengths(query_lengths), _as_lengths(key_lengths), is_causal, scale
        )
    if query_THK.is_cuda and query_THK.shape[1] != key_THK.shape[1]:
        # Of sdpa's fused kernels some take no fewer key heads (memory-efficient, which cards before Ampere and float32
        # have), and what torch computes then holds tokens x tokens weights.
        groups = query_THK.shape[1] // key_THK.shape[1]
        key_THK, value_THK = (each.repeat_interleave(groups, dim=1) for each in (key_THK, value_THK))
    options = {
        "is_causal": is_causal,
        "scale": scale,
        "dropout_p": dropout,
        "enable_gqa": query_THK.shape[1] != key_THK.shape[1],
    }
    shapes = list(zip(query_lengths, key_lengths, strict=True))
    if len(set(shapes)) == 1:
        return _attend_alike(query_THK, key_THK, value_THK, len(shapes), options)

    queries, keys, values = (
        tensor.split(list(lengths))
        for tensor, lengths in ((query_THK, query_lengths), (key_THK, key_lengths), (value_THK, key_lengths))
    )
    outputs: list[Tensor | None] = [None] * len(shapes)
    for shape in dict.fromkeys(shapes):  # ordered, so that a run repeats bit for bit
        members = [i for i, other in enumerate(shapes) if other == shape]
        joined = _attend_alike(
            _join([queries[i] for i in members]),
            _join([keys[i] for i in members]),
            _join([values[i] for i in members]),
            len(members),
            options,
        )
        for i, output in zip(members, joined.split(shape[0]), strict=True):
            outputs[i] = output
    return torch.cat([output for output in outputs if output is not None])


def _join(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _attend_alike(
    query_THK: Tensor, key_THK: Tensor, value_THK: Tensor, num_sequences: int, options: dict[str, Any]
) -> Tensor:
    query_NHTK, key_NHTK, value_NHTK = (
        tensor.unflatten(0, (num_sequences, -1)).transpose(1, 2) for tensor in (query_THK, key_THK, value_THK)
    )
    is_shifted = options["is_causal"] and query_NHTK.shape[2] != key_NHTK.shape[2]
    is_plain = options["dropout_p"] == 0.0 and not is_shifted
    if is_plain and _learns_by_products(query_NHTK, key_NHTK, value_NHTK):
        query, key, value = (each.to(torch.bfloat16) for each in (query_NHTK, key_NHTK, value_NHTK))  # as autocast does
        attended_NHTK = attend_by_products(query, key, value, is_causal=options["is_causal"], scale=options["scale"])
        return attended_NHTK.transpose(1, 2).flatten(0, 1)
    if is_shifted:
        options = options | {"is_causal": False, "attn_mask": _at_the_end(query_NHTK.shape[2], key_NHTK)}
    return scaled_dot_product_attention(query_NHTK, key_NHTK, value_NHTK, **options).transpose(1, 2).flatten(0, 1)


def _at_the_end(num_queries: int, key_NHTK: Tensor) -> Tensor:
    """Let the last of fewer queries see all keys, each one before it one key less; torch itself would let the first."""
    num_keys = key_NHTK.shape[2]
    seen = torch.ones(num_queries, num_keys, dtype=torch.bool, device=key_NHTK.device)
    return seen.tril(num_keys - num_queries)


@contextmanager
def without_products() -> Iterator[None]:
    """Leave the gradients to torch, as they are on every device but this processor."""
    global PRODUCTS_ARE_FASTER
    before, PRODUCTS_ARE_FASTER = PRODUCTS_ARE_FASTER, False  # pyright: ignore[reportConstantRedefinition]
    try:
        yield
    finally:
        PRODUCTS_ARE_FASTER = before  # pyright: ignore[reportConstantRedefinition]


def _learns_by_products(*tensors: Tensor) -> bool:
    if tensors[0].device.type != "cpu" or not torch.is_grad_enabled() or not PRODUCTS_ARE_FASTER:
        return False
    autocast = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None
    return any(each.requires_grad for each in tensors) and (autocast or tensors[0].dtype) == torch.bfloat16


def _attend_by_kernel(
    query_THK: Tensor,
    key_THK: Tensor,
    value_THK: Tensor,
    query_lengths: Lengths,
    key_lengths: Lengths,
    is_causal: bool,
    scale: float | None,
) -> Tensor:
    device = query_THK.device
    places = query_lengths.offsets(device), key_lengths.offsets(device)
    longest = max(query_lengths), max(key_lengths)
    return attend_by_kernel(query_THK, key_THK, value_THK, *places, longest, is_causal=is_causal, scale=scale)


def _as_lengths(lengths: Sequence[int]) -> Lengths:
    return lengths if isinstance(lengths, Lengths) else Lengths(lengths)
