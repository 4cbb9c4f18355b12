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

__all__ = ["IGNORED", "count_chunks", "labelled_token_loss", "summed_loss"]

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


def labelled_token_loss(
    hidden_BTD: Tensor,
    labels_BT: Tensor,
    project: Callable[[Tensor], Tensor],
    *,
    num_items_in_batch: Tensor | int | None = None,
    num_chunks: int = 1,
) -> Tensor:
    """Cross-entropy of each labelled token given everything before it in its row.

    Args:
        hidden_BTD: Last hidden states of the language model.
        labels_BT: Unshifted: the label of token t stands at t and is predicted from t - 1. ``IGNORED`` elsewhere; the
            first token of a row is never predicted.
        project: From hidden states (M, D) to logits (M, V).
        num_items_in_batch: Labelled tokens of the whole optimizer step over all micro-batches and ranks, as
            transformers' Trainer counts them. Without it, those of this batch.
        num_chunks: How often ``project`` is called, with as many tokens each time. With more than one, logits are
            computed once more in the backward pass.

    Returns:
        The summed loss divided by that number, a float32 scalar; 0 with a gradient path when nothing is labelled.
    """
    shifted_BT = labels_BT[:, 1:]
    labelled_BT = shifted_BT != IGNORED
    targets_M = shifted_BT[labelled_BT]
    summed = summed_loss(hidden_BTD[:, :-1][labelled_BT], targets_M, project, num_chunks=num_chunks)
    if num_items_in_batch is None:
        return summed / max(len(targets_M), 1)
    if isinstance(num_items_in_batch, Tensor):
        num_items_in_batch = num_items_in_batch.to(summed.device)
    return summed / torch.as_tensor(num_items_in_batch, device=summed.device).clamp(min=1)


def summed_loss(
    hidden_MD: Tensor, targets_M: Tensor, project: Callable[[Tensor], Tensor], *, num_chunks: int = 1
) -> Tensor:
    """Cross-entropy of tokens from the hidden states that predict them, summed; a float32 scalar."""

    def sum_up(hidden_MD: Tensor, targets_M: Tensor) -> Tensor:
        logits_MV = project(hidden_MD).float()
        return cross_entropy(logits_MV, targets_M.to(logits_MV.device), reduction="sum")

    if num_chunks == 1:
        return sum_up(hidden_MD, targets_M)
    chunks = zip(hidden_MD.tensor_split(num_chunks), targets_M.tensor_split(num_chunks), strict=True)
    # tensor_split, unlike chunk, gives as many as asked, empty ones where tokens are fewer.
    return torch.stack([checkpoint(sum_up, *each, use_reentrant=False) for each in chunks]).sum()
