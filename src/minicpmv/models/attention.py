"""Attention over sequences of unequal length that lie end to end: nothing is padded, so nothing is masked.

The one primitive under the vision tower and the resampler. Sequences of equal length are attended together, which on
a CPU beats both a loop over sequences and a block mask. It deliberately knows neither projections nor positions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

__all__ = ["attend"]

# Shape letters in this file
#   T tokens of all sequences    N sequences of one shape    H heads    K channels of a head


def attend(
    query_THK: Tensor, key_THK: Tensor, value_THK: Tensor, *, query_lengths: Sequence[int], key_lengths: Sequence[int]
) -> Tensor:
    """Let every query see all keys of its own sequence and no others.

    Args:
        query_THK: Queries of all sequences, end to end. Float.
        key_THK: Keys, end to end in the same order; the number of tokens may differ from the queries'.
        value_THK: Values, one for each key.
        query_lengths: Tokens of each sequence in ``query_THK``; sums to its length.
        key_lengths: Tokens of each sequence in ``key_THK``; one for each entry of ``query_lengths``.

    Returns:
        Shaped and typed as ``query_THK``, scaled by ``1 / sqrt(K)`` before the softmax.
    """
    assert len(query_lengths) == len(key_lengths), "one key length for each query length"
    shapes = list(zip(query_lengths, key_lengths, strict=True))
    if len(set(shapes)) == 1:
        return _attend_alike(query_THK, key_THK, value_THK, len(shapes))

    queries, keys, values = (
        tensor.split(list(lengths))
        for tensor, lengths in ((query_THK, query_lengths), (key_THK, key_lengths), (value_THK, key_lengths))
    )
    outputs: list[Tensor | None] = [None] * len(shapes)
    for shape in dict.fromkeys(shapes):  # ordered, so that a run repeats bit for bit
        members = [i for i, other in enumerate(shapes) if other == shape]
        joined = _attend_alike(
            torch.cat([queries[i] for i in members]),
            torch.cat([keys[i] for i in members]),
            torch.cat([values[i] for i in members]),
            len(members),
        )
        for i, output in zip(members, joined.split(shape[0]), strict=True):
            outputs[i] = output
    return torch.cat([output for output in outputs if output is not None])


def _attend_alike(query_THK: Tensor, key_THK: Tensor, value_THK: Tensor, num_sequences: int) -> Tensor:
    query_NHTK, key_NHTK, value_NHTK = (
        tensor.unflatten(0, (num_sequences, -1)).transpose(1, 2) for tensor in (query_THK, key_THK, value_THK)
    )
    return scaled_dot_product_attention(query_NHTK, key_NHTK, value_NHTK).transpose(1, 2).flatten(0, 1)
