"""The loss looks at labelled tokens only."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

from minicpmv.models.networks.layout import Layout
from minicpmv.models.networks.loss import IGNORED, count_chunks, labelled_log_probs, labelled_token_loss


def token_loss(hidden, labels, project, *, weights_BT=None, **options):
    """As the model calls it, with the places that a collator finds."""
    layout = Layout.read(labels=labels, label_weights=weights_BT)
    assert layout.label_places is not None
    return labelled_token_loss(hidden, labels, layout.label_places, project, weights_BT=weights_BT, **options)


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
    torch.testing.assert_close(token_loss(hidden, labels, head), full)


def test_the_head_sees_as_many_tokens_as_are_labelled(case) -> None:
    hidden, labels, head = case
    seen: list[int] = []
    token_loss(hidden, labels, lambda h: seen.append(len(h)) or head(h))
    assert seen == [5]


@pytest.mark.parametrize("count", [20, torch.tensor(20)])
def test_the_sum_is_divided_by_the_number_of_the_whole_step(case, count) -> None:
    hidden, labels, head = case
    mean = token_loss(hidden, labels, head)
    torch.testing.assert_close(token_loss(hidden, labels, head, num_items_in_batch=count), mean * 5 / 20)


def test_a_label_on_the_first_token_is_not_predicted_from_the_row_before(case) -> None:
    hidden, labels, head = case
    with_first = labels.clone()
    with_first[:, 0] = 4
    torch.testing.assert_close(token_loss(hidden, with_first, head), token_loss(hidden, labels, head))


def test_nothing_labelled_is_zero_with_zero_gradients(case) -> None:
    hidden, labels, head = case
    loss = token_loss(hidden, torch.full_like(labels, IGNORED), head)
    loss.backward()
    assert loss.item() == 0.0
    assert hidden.grad is not None
    assert hidden.grad.abs().max() == 0


@pytest.mark.parametrize("num_chunks", [2, 3, 9], ids=["unequal", "more", "more than tokens"])
def test_loss_and_gradients_do_not_depend_on_the_number_of_chunks(case, num_chunks: int) -> None:
    hidden, labels, head = case
    found = []
    for number in (1, num_chunks):
        hidden.grad = head.weight.grad = None
        loss = token_loss(hidden, labels, head, num_chunks=number)
        loss.backward()
        found.append((loss.detach(), hidden.grad, head.weight.grad))
    for whole, chunked in zip(*found, strict=True):
        torch.testing.assert_close(chunked, whole)


@pytest.mark.parametrize("labelled", [True, False])
def test_every_batch_projects_equally_often(case, labelled: bool) -> None:
    """Engines that shard the head wait for ever otherwise."""
    hidden, labels, head = case
    seen: list[int] = []
    labels = labels if labelled else torch.full_like(labels, IGNORED)
    loss = token_loss(hidden, labels, lambda h: seen.append(len(h)) or head(h), num_chunks=3)
    loss.backward()
    assert seen == ([2, 2, 1, 1, 2, 2] if labelled else [0] * 6)


def test_logits_of_a_large_vocabulary_are_never_held_all_at_once() -> None:
    tokens, words = 60, 150_000
    hidden, head = torch.randn(1, tokens + 1, 4), torch.nn.Linear(4, words, bias=False)
    sizes: list[int] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            sizes.append(result.numel() if isinstance(result, torch.Tensor) else 0)
            return result

    with Watch():
        token_loss(hidden, torch.zeros(1, tokens + 1, dtype=torch.long), head, num_chunks=count_chunks(words))
    assert max(sizes) <= tokens * 2**14
    assert max(sizes) > tokens * 2**13, "the logits went by unseen"


# Of the labels in `case`; where there is no label stands nonsense, which nothing may read.
WEIGHTS = torch.tensor([[9.0, 0.5, 9.0, 1.0, float("nan")], [9.0, 9.0, 2.0, 0.25, 0.0]])


@pytest.mark.parametrize("num_chunks", [1, 3])
def test_weighted_loss_is_the_mean_by_weight(case, num_chunks: int) -> None:
    hidden, labels, head = case
    nats = [  # of the five labels, each predicted from the token before
        cross_entropy(head(hidden)[row, place - 1], labels[row, place])
        for row, place in ((0, 1), (0, 3), (1, 2), (1, 3), (1, 4))
    ]
    expected = (0.5 * nats[0] + nats[1] + 2 * nats[2] + 0.25 * nats[3] + 0 * nats[4]) / 3.75
    found = token_loss(hidden, labels, head, weights_BT=WEIGHTS, num_chunks=num_chunks)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    wanted = torch.autograd.grad(expected, (hidden, head.weight))
    gradients = torch.autograd.grad(found, (hidden, head.weight))
    torch.testing.assert_close(gradients, wanted, rtol=1e-5, atol=1e-6)


def test_the_loss_depends_on_how_weights_compare_only(case) -> None:
    """Also where they sum to less than 1."""
    hidden, labels, head = case
    for factor in (1e-3, 100.0):
        torch.testing.assert_close(
            token_loss(hidden, labels, head, weights_BT=factor * WEIGHTS),
            token_loss(hidden, labels, head, weights_BT=WEIGHTS),
        )


def test_weight_zero_is_no_label(case) -> None:
    """The head does not see the token, and the rest is the same to the last bit."""
    hidden, labels, head = case
    silent = torch.where(torch.tensor([[True] * 5, [True] * 4 + [False]]), labels, IGNORED)
    found = []
    for these in (labels, silent):
        seen: list[int] = []
        loss = token_loss(hidden, these, lambda h, seen=seen: seen.append(len(h)) or head(h), weights_BT=WEIGHTS)
        assert seen == [4]
        found.append((loss, *torch.autograd.grad(loss, (hidden, head.weight))))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_a_batch_in_which_all_weigh_zero_is_zero_with_zero_gradients(case) -> None:
    hidden, labels, head = case
    loss = token_loss(hidden, labels, head, weights_BT=torch.zeros(2, 5), num_chunks=2)
    loss.backward()
    assert loss.item() == 0.0
    assert hidden.grad is not None
    assert hidden.grad.abs().max() == 0


def test_weights_of_a_batch_add_up_as_its_loss_is_divided(case) -> None:
    hidden, labels, head = case
    assert Layout.read(labels=labels).label_weight == 5
    weight = Layout.read(labels=labels, label_weights=WEIGHTS).label_weight
    assert weight == 3.75
    divided = token_loss(hidden, labels, head, weights_BT=WEIGHTS, num_items_in_batch=torch.tensor(weight))
    assert torch.equal(divided, token_loss(hidden, labels, head, weights_BT=WEIGHTS))


@pytest.mark.parametrize("num_chunks", [1, 2, 9])
def test_log_probabilities_are_those_of_the_labels_in_order(case, num_chunks) -> None:
    hidden, labels, head = case
    places = Layout.read(labels=labels).label_places
    assert places is not None
    found = labelled_log_probs(hidden, labels, places, head, num_chunks=num_chunks)
    every = head(hidden).log_softmax(-1).flatten(0, 1)
    expected = torch.stack([every[place - 1, labels.flatten()[place]] for place in places.tolist()])
    torch.testing.assert_close(found, expected)
    assert found.dtype == torch.float32


def test_log_probabilities_come_from_the_sources_that_are_named(case) -> None:
    hidden, labels, head = case
    found = labelled_log_probs(hidden, labels, torch.tensor([3]), head, sources_M=torch.tensor([0]))
    torch.testing.assert_close(found[0], head(hidden)[0, 0].log_softmax(-1)[1])


def test_log_probabilities_of_nothing_have_a_gradient_path(case) -> None:
    hidden, labels, head = case
    found = labelled_log_probs(hidden, labels, torch.zeros(0, dtype=torch.int64), head, num_chunks=2)
    found.sum().backward()
    assert len(found) == 0
    assert not hidden.grad.any()
