"""Attention over sequences that lie end to end."""

from __future__ import annotations

import torch
from torch.nn.functional import scaled_dot_product_attention

from minicpmv.models.attention import attend

Tensors = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def one_by_one(tensors: Tensors, query_lengths: list[int], key_lengths: list[int]) -> torch.Tensor:
    query, key, value = tensors
    parts = zip(query.split(query_lengths), key.split(key_lengths), value.split(key_lengths), strict=True)
    return torch.cat(
        [
            scaled_dot_product_attention(q.transpose(0, 1), k.transpose(0, 1), v.transpose(0, 1)).transpose(0, 1)
            for q, k, v in parts
        ]
    )


def random_case(query_lengths: list[int], key_lengths: list[int]) -> Tensors:
    generator = torch.Generator().manual_seed(0)

    def make(length: int) -> torch.Tensor:
        return torch.randn(length, 2, 8, generator=generator, requires_grad=True)

    return make(sum(query_lengths)), make(sum(key_lengths)), make(sum(key_lengths))


def test_each_sequence_sees_itself_alone_in_value_and_gradient() -> None:
    """Shapes repeat out of order, so grouping by shape must put every result back in its place."""
    query_lengths, key_lengths = [3, 5, 3, 1, 5], [4, 2, 4, 1, 2]
    ours, theirs = random_case(query_lengths, key_lengths), random_case(query_lengths, key_lengths)
    attended = attend(*ours, query_lengths=query_lengths, key_lengths=key_lengths)
    expected = one_by_one(theirs, query_lengths, key_lengths)
    torch.testing.assert_close(attended, expected)
    attended.square().sum().backward()
    expected.square().sum().backward()
    for left, right in zip(ours, theirs, strict=True):
        torch.testing.assert_close(left.grad, right.grad)


def test_equal_shapes_take_the_single_call_to_the_same_result() -> None:
    tensors = random_case([4, 4, 4], [6, 6, 6])
    attended = attend(*tensors, query_lengths=[4, 4, 4], key_lengths=[6, 6, 6])
    torch.testing.assert_close(attended, one_by_one(tensors, [4, 4, 4], [6, 6, 6]))
