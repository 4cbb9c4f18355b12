"""The loss looks at labelled tokens only."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from minicpmv.models.loss import IGNORED, labelled_token_loss


@pytest.fixture
def case() -> tuple[torch.Tensor, torch.Tensor, torch.nn.Linear]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(2, 5, 8, generator=generator, requires_grad=True)
    labels = torch.tensor([[IGNORED, 3, IGNORED, 1, IGNORED], [IGNORED, IGNORED, 2, 2, 0]])
    torch.manual_seed(0)
    return hidden, labels, torch.nn.Linear(8, 7, bias=False)


def test_equals_cross_entropy_over_every_position(case) -> None:
    hidden, labels, head = case
    full = cross_entropy(head(hidden)[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED)
    torch.testing.assert_close(labelled_token_loss(hidden, labels, head), full)


def test_the_head_sees_as_many_tokens_as_are_labelled(case) -> None:
    hidden, labels, head = case
    seen: list[int] = []
    labelled_token_loss(hidden, labels, lambda h: seen.append(len(h)) or head(h))
    assert seen == [5]


@pytest.mark.parametrize("count", [20, torch.tensor(20)])
def test_the_sum_is_divided_by_the_number_of_the_whole_step(case, count) -> None:
    hidden, labels, head = case
    mean = labelled_token_loss(hidden, labels, head)
    torch.testing.assert_close(labelled_token_loss(hidden, labels, head, num_items_in_batch=count), mean * 5 / 20)


def test_a_label_on_the_first_token_is_not_predicted_from_the_row_before(case) -> None:
    hidden, labels, head = case
    with_first = labels.clone()
    with_first[:, 0] = 4
    torch.testing.assert_close(labelled_token_loss(hidden, with_first, head), labelled_token_loss(hidden, labels, head))


def test_nothing_labelled_is_zero_with_zero_gradients(case) -> None:
    hidden, labels, head = case
    loss = labelled_token_loss(hidden, torch.full_like(labels, IGNORED), head)
    loss.backward()
    assert loss.item() == 0.0
    assert hidden.grad is not None
    assert hidden.grad.abs().max() == 0
