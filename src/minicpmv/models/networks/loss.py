"""The loss of labelled tokens: the vocabulary projection never sees a prompt, an image slot or padding.

Logits over a large vocabulary would be the largest tensors of a step, so they are computed for some tokens at a time,
and once more in the backward pass, at the price of one more product with the head.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

__all__ = [
    "IGNORED",
    "check_label_weights",
    "count_chunks",
    "labelled_log_probs",
    "labelled_token_loss",
    "summed_loss",
]

IGNORED = -100
"""The label of a token that is not trained."""

# Shape letters in this file
#   B rows    T tokens    D language width    M labelled tokens    V vocabulary

_WORDS_AT_ONCE = 2**14
"""Logits of all tokens would be as many with a vocabulary of this size as are held at once with a larger one."""


def count_chunks(vocabulary_size: int) -> int:
    """Into how many chunks the labelled tokens of a batch are divided.

    It depends on the model alone: engines that shard the head would wait for ever if one rank projected more often than
    another.
    """
    return -(-vocabulary_size // _WORDS_AT_ONCE)


def check_label_weights(labels: Tensor | None, label_weights: Tensor | None) -> None:
    """Make sure that weights are of labels.

    Raises:
        ValueError: They have no labels, or those are of another shape.
    """
    if label_weights is None:
        return
    if labels is None:
        raise ValueError("label_weights came without labels; pass both, or neither")
    if label_weights.shape != labels.shape:
        raise ValueError(
            f"label_weights have the shape {tuple(label_weights.shape)}, expected that of labels, {tuple(labels.shape)}"
        )


def labelled_token_loss(
    hidden_BTD: Tensor,
    labels_BT: Tensor,
    places_M: Tensor,
    project: Callable[[Tensor], Tensor],
    *,
    sources_M: Tensor | None = None,
    weights_BT: Tensor | None = None,
    num_items_in_batch: Tensor | int | None = None,
    num_chunks: int = 1,
) -> Tensor:
    """Cross-entropy of each labelled token given everything before it in its row.

    Tokens are taken by their places, which the host knows: by a mask it would have to ask the device for their number.

    Args:
        hidden_BTD: Last hidden states of the language model.
        labels_BT: Unshifted: the label of token t stands at t and is predicted from t - 1.
        places_M: Int64, the places of the labels that count, through the rows one after the other; never the first of
            a row.
        project: From hidden states (M, D) to logits (M, V).
        sources_M: Int64, the place of the token that predicts each; the one before, if not given.
        weights_BT: How much each label counts, from 0 on. Without them all count as 1.
        num_items_in_batch: Labelled tokens of the whole optimizer step over all micro-batches and ranks, or the sum of
            their weights if any batch of the step has weights. Without it, that of this batch.
        num_chunks: How often ``project`` is called, with as many tokens each time. With more than one, logits are
            computed once more in the backward pass.

    Returns:
        The sum of weighted losses divided by that number, a float32 scalar; 0 with a gradient path when nothing is
        labelled.
    """
    device = hidden_BTD.device
    places_M = places_M.to(device, non_blocking=True)
    hidden_MD, targets_M = _pick(hidden_BTD, labels_BT, places_M, sources_M)
    weights_M = None
    if weights_BT is not None:
        weights_M = weights_BT.to(device, torch.float32, non_blocking=True).flatten().index_select(0, places_M)
    summed = summed_loss(hidden_MD, targets_M, project, weights_M, num_chunks=num_chunks)
    if num_items_in_batch is None:
        num_items_in_batch = len(places_M) if weights_M is None else weights_M.sum()
    if not isinstance(num_items_in_batch, Tensor):
        return summed / (num_items_in_batch or 1)
    total = num_items_in_batch.to(device, non_blocking=True)
    return summed / total.masked_fill(total == 0, 1)  # not clamped: weights may well sum to less than 1


def labelled_log_probs(
    hidden_BTD: Tensor,
    labels_BT: Tensor,
    places_M: Tensor,
    project: Callable[[Tensor], Tensor],
    *,
    sources_M: Tensor | None = None,
    num_chunks: int = 1,
) -> Tensor:
    """Logarithm of the probability of each labelled token given everything before it; weights of labels do not matter.

    Args:
        hidden_BTD: As in :func:`labelled_token_loss`, like all others.
        labels_BT: Unshifted.
        places_M: Int64.
        project: From hidden states (M, D) to logits (M, V).
        sources_M: Int64, the place of the token that predicts each; the one before, if not given.
        num_chunks: How often ``project`` is called.

    Returns:
        (M,) float32, in the order of ``places_M``.
    """
    places_M = places_M.to(hidden_BTD.device, non_blocking=True)
    hidden_MD, targets_M = _pick(hidden_BTD, labels_BT, places_M, sources_M)

    def look_up(hidden_MD: Tensor, targets_M: Tensor) -> Tensor:
        logits_MV = project(hidden_MD).float()
        return -cross_entropy(logits_MV, targets_M.to(logits_MV.device), reduction="none")

    if num_chunks == 1:
        return look_up(hidden_MD, targets_M)
    chunks = zip(hidden_MD.tensor_split(num_chunks), targets_M.tensor_split(num_chunks), strict=True)
    return torch.cat([checkpoint(look_up, *each, use_reentrant=False) for each in chunks])


def _pick(hidden_BTD: Tensor, labels_BT: Tensor, places_M: Tensor, sources_M: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the hidden states that predict labelled tokens, (M, D), and these tokens, (M,)."""
    device = hidden_BTD.device
    sources_M = places_M - 1 if sources_M is None else sources_M.to(device, non_blocking=True)
    hidden_MD = hidden_BTD.flatten(0, 1).index_select(0, sources_M)
    return hidden_MD, labels_BT.to(device, non_blocking=True).flatten().index_select(0, places_M)


def summed_loss(
    hidden_MD: Tensor,
    targets_M: Tensor,
    project: Callable[[Tensor], Tensor],
    weights_M: Tensor | None = None,
    *,
    num_chunks: int = 1,
) -> Tensor:
    """Cross-entropy of tokens from the hidden states that predict them, weighted and summed; a float32 scalar."""

    def sum_up(hidden_MD: Tensor, targets_M: Tensor, weights_M: Tensor | None) -> Tensor:
        logits_MV = project(hidden_MD).float()
        targets_M = targets_M.to(logits_MV.device)
        if weights_M is None:
            return cross_entropy(logits_MV, targets_M, reduction="sum")
        return cross_entropy(logits_MV, targets_M, reduction="none") @ weights_M.to(logits_MV.device)

    if num_chunks == 1:
        return sum_up(hidden_MD, targets_M, weights_M)
    weights = [None] * num_chunks if weights_M is None else weights_M.tensor_split(num_chunks)
    chunks = zip(hidden_MD.tensor_split(num_chunks), targets_M.tensor_split(num_chunks), weights, strict=True)
    # tensor_split, unlike chunk, gives as many as asked, empty ones where tokens are fewer.
    return torch.stack([checkpoint(sum_up, *each, use_reentrant=False) for each in chunks]).sum()
