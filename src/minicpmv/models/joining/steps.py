"""Describes the forward pass of a whole model step by step: tower, connector, embeddings, layers, loss."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from minicpmv.models.joining.forward import JoinsPictures
from minicpmv.models.networks.loss import count_chunks, summed_loss
from minicpmv.models.networks.steps import Step, active

__all__ = ["HasSteps"]

# Shape letters in this file
#   B rows    T tokens of a row    N image tokens    M labelled tokens    D language width    K rotated channels


class HasSteps(JoinsPictures):
    """Says of what its forward pass consists. Its weights may be on the ``meta`` device."""

    def vision_steps(self, sizes: Sequence[tuple[int, int]]) -> Iterator[Step]:
        """Yield the steps from the patches of slices to image tokens.

        Args:
            sizes: Rows and columns of each slice, in patches. Without any, those of the blank picture of a batch
                without pictures.
        """
        sizes = list(sizes) or [self.blank_size]
        yield from active(self.tower).steps(sizes)
        yield from active(self.connector).steps(self.sizes_seen(sizes))

    def language_steps(self, num_tokens: int, num_image_tokens: int, num_labelled: int) -> Iterator[Step]:
        """Yield the steps from a row's tokens to its loss, one sample in the row.

        Args:
            num_tokens: Tokens of the row.
            num_image_tokens: Those of them that are filled from pictures. The first step takes their features last.
            num_labelled: Those of them that are trained.
        """
        config: Any = self.config.text_config
        embeddings, norm, head = active(self.get_input_embeddings()), self.body.norm, self.head

        def embed(ids_BT: Tensor, places_N: Tensor, features_ND: Tensor) -> Tensor:
            embedded_BTD = embeddings(ids_BT)
            places = places_N // num_tokens, places_N % num_tokens
            return embedded_BTD.index_put(places, features_ND.to(embedded_BTD))

        ids, places = ((1, num_tokens), torch.int64), ((num_image_tokens,), torch.int64)
        yield Step("token embeddings", [embeddings], embed, (ids, places))
        rotated = ((1, num_tokens, _count_rotated(config)), embeddings.weight.dtype)
        for layer in self.layers:

            def run(hidden_BTD: Tensor, angles_BTK: Tensor, layer: Any = layer) -> Tensor:
                return layer(hidden_BTD, position_embeddings=(angles_BTK, angles_BTK), attention_mask=None)

            yield Step("language model", [layer], run, (rotated,), is_layer=True)

        def predict(hidden_BTD: Tensor, chosen_M: Tensor, targets_M: Tensor) -> Tensor:
            chosen_MD = norm(hidden_BTD)[0].index_select(0, chosen_M)
            return summed_loss(chosen_MD, targets_M, self._project, num_chunks=count_chunks(config.vocab_size))

        number = ((max(num_labelled, 1),), torch.int64)
        yield Step("loss", [norm, head], predict, (number, number))


def _count_rotated(config: Any) -> int:
    """Count the channels of a head that rotary positions turn."""
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    rotary = getattr(config, "rope_parameters", None) or {}
    return int(width * rotary.get("partial_rotary_factor", 1.0))
