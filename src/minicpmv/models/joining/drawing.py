"""Answers what transformers' ``generate`` asks of a model: which inputs a step needs, how rows are repeated."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin

from minicpmv.models.joining.seeing import SeesPictures
from minicpmv.models.networks.layout import Layout

__all__ = ["DrawsTokens"]

_PICTURES = ("pixel_values", "pixel_table", "tgt_sizes", "temporal_ids")


class DrawsTokens(SeesPictures):
    """A model that ``generate`` can ask."""

    def prepare_inputs_for_generation(self, input_ids: Tensor, **kwargs: Any) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Give the images to the first step only; afterwards they are in the cache, if there is one.

        Args:
            input_ids: (B, T) int64, the prompt and the answer so far.
            **kwargs: As ``forward`` describes them.
        """
        # Not a released class's own, which would add what it calls its pictures.
        drawing: Any = GenerationMixin
        inputs: dict[str, Any] = drawing.prepare_inputs_for_generation(self, input_ids, **kwargs)
        if not kwargs.get("is_first_iteration", False) and kwargs.get("use_cache", True):
            for key in (*_PICTURES, "image_mask", "image_features", "layout"):
                inputs.pop(key, None)
        elif (image_mask := inputs.get("image_mask")) is not None:  # of the prompt: the answer so far has no images
            num_new = input_ids.shape[1] - image_mask.shape[1]
            inputs["image_mask"] = nn.functional.pad(image_mask, (0, num_new))
        return inputs

    def _expand_inputs_for_generation(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, expand_size: int = 1, is_encoder_decoder: bool = False, input_ids: Tensor | None = None, **kwargs: Any
    ) -> tuple[Tensor | None, dict[str, Any]]:
        """Repeat each row for beams or several answers; its pictures are seen once, and their tokens repeated."""
        pictures = {key: kwargs.pop(key, None) for key in _PICTURES}
        features, image_mask = kwargs.pop("image_features", None), kwargs.get("image_mask")
        if (
            expand_size > 1
            and any(given is not None for given in (features, pictures["pixel_values"]))
            and image_mask is not None
        ):
            names = ("tgt_sizes", "temporal_ids")
            layout = Layout.read(image_mask=image_mask, **{name: pictures[name] for name in names})
            if features is None:
                pixels, table = pictures["pixel_values"], pictures["pixel_table"]
                features = self._see(layout, pixels, table)
            tokens_by_row = features.flatten(0, -2).split(list(layout.slots_of_each))
            features = torch.cat([tokens for tokens in tokens_by_row for _ in range(expand_size)])
            pictures = {}
        mrope_position_ids = kwargs.pop("mrope_position_ids", None)
        if mrope_position_ids is not None:
            # transformers counts on in each row from its last token, as the release does behind a prompt.
            kwargs["position_ids"] = torch.cat([kwargs["position_ids"][None], mrope_position_ids])
        drawing: Any = GenerationMixin
        input_ids, kwargs = drawing._expand_inputs_for_generation(
            self, expand_size, is_encoder_decoder, input_ids, **kwargs
        )
        kept = {key: value for key, value in (pictures | {"image_features": features}).items() if value is not None}
        return input_ids, kwargs | kept
