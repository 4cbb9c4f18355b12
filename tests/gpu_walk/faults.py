"""Switches remedies of the GPU path off, one for each walk, which must then break the right promises.

What is put in a remedy's place is what was there before it, or what somebody who does not know of it would write. Only
this module replaces functions of the package.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import wraps
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from minicpmv.data.samples.collation import Collator, PackedCollator
from minicpmv.models import modeling
from minicpmv.models.attention import varlen as attention
from minicpmv.models.joining import forward as joining
from minicpmv.models.networks import resampler, siglip
from minicpmv.models.networks.layout import lay_out
from minicpmv.models.networks.loss import IGNORED, summed_loss
from minicpmv.models.networks.positions import SinePositions
from minicpmv.training.flags import resolution as settings
from minicpmv.training.loop import boundary
from tests.gpu_walk import walk

__all__ = ["switched_off"]


@contextmanager
def switched_off(remedy: str) -> Iterator[None]:
    """Do without a remedy while this is entered; without none, if its name is empty."""
    if not remedy:
        yield
        return
    with _REMEDIES[remedy]():
        yield


def _positions_on_the_host() -> AbstractContextManager[Any]:
    on_device = SinePositions.of_grid

    def of_grid(self: SinePositions, sizes: Sequence[Any], device: torch.device, dtype: torch.dtype) -> Tensor:
        return on_device(self, sizes, torch.device("cpu"), torch.float32).to(device=device, dtype=dtype)

    return patch.object(SinePositions, "of_grid", of_grid)


def _times_on_the_host() -> AbstractContextManager[Any]:
    on_device = SinePositions.of_times

    def of_times(self: SinePositions, times: Sequence[int], device: torch.device) -> Tensor:
        return on_device(self, times, torch.device("cpu")).to(device, non_blocking=True)

    return patch.object(SinePositions, "of_times", of_times)


def _a_mask_that_is_looked_at() -> AbstractContextManager[Any]:
    return patch.object(joining, "mask_rows", lambda config, embeds, mask, lengths: mask)


def _attention_before_its_cast() -> AbstractContextManager[Any]:
    class Torch:
        """torch, with an autocast that attention does not see."""

        def __getattr__(self, name: str) -> Any:
            return getattr(torch, name)

        def is_autocast_enabled(self, device_type: str) -> bool:
            return False

    return patch.object(attention, "torch", Torch())


def _labels_by_a_mask() -> AbstractContextManager[Any]:
    def labelled_token_loss(
        hidden: Tensor, labels: Tensor, places: Tensor, project: Any, *, num_chunks: int = 1, **_: Any
    ) -> Tensor:
        is_labelled = labels[:, 1:] != IGNORED
        hidden, targets = hidden[:, :-1][is_labelled], labels[:, 1:][is_labelled]
        return summed_loss(hidden, targets, project, num_chunks=num_chunks)

    return patch.object(joining, "labelled_token_loss", labelled_token_loss)


def _images_by_a_mask() -> AbstractContextManager[Any]:
    def embed(self: Any, input_ids: Tensor, features: Tensor | None, places: Tensor | None) -> Tensor:
        embeds = self.get_input_embeddings()(input_ids)
        if features is None or places is None:
            return embeds
        mask = torch.zeros_like(input_ids, dtype=torch.bool).flatten().index_fill(0, places, True).view_as(input_ids)
        return embeds.masked_scatter(mask[..., None], features.to(embeds))

    return patch.object(modeling.MiniCPMVForConditionalGeneration, "_embed", embed)


@contextmanager
def _no_layout() -> Iterator[None]:
    forward = modeling.MiniCPMVForConditionalGeneration.forward

    @wraps(forward)  # generate reads the arguments off it
    def without_layout(self: Any, *args: Any, layout: Any = None, **kwargs: Any) -> Any:
        return forward(self, *args, **kwargs)

    def join(self: Any, samples: Any) -> dict[str, Any]:
        batch = self.join(samples)
        return batch | {"layout": lay_out(batch)["layout"]}  # which the Trainer reads as well

    with (
        patch.object(modeling.MiniCPMVForConditionalGeneration, "forward", without_layout),
        patch.object(Collator, "__call__", join),
        patch.object(PackedCollator, "__call__", join),
    ):
        yield


def _ordinary_memory() -> AbstractContextManager[Any]:
    return patch.object(walk, "pin_memory", lambda batch: batch)


def _blocking_copies() -> AbstractContextManager[Any]:
    return patch.object(settings, "_resolve_copies", lambda settings: None)


def _several_questions_at_the_end() -> AbstractContextManager[Any]:
    def on_device(value: Any, args: Any) -> Tensor:
        return torch.tensor(float(value), device=args.device)

    return patch.object(boundary, "_on_device", on_device)


@contextmanager
def _queries_left_behind() -> Iterator[None]:
    move = walk.move_to_device

    def move_most(model: nn.Module) -> None:
        move(model)
        for module in model.modules():
            if isinstance(module, resampler.Resampler):
                module.query = nn.Parameter(torch.empty(module.query.shape, dtype=module.query.dtype))

    with patch.object(walk, "move_to_device", move_most):
        yield


@contextmanager
def _a_frozen_tower() -> Iterator[None]:
    forward = siglip.VisionTower.forward

    def without_gradient(self: Any, *args: Any, **kwargs: Any) -> Tensor:
        with torch.no_grad():
            return forward(self, *args, **kwargs)

    with patch.object(siglip.VisionTower, "forward", without_gradient):
        yield


_REMEDIES: Mapping[str, Any] = {
    "positions made on the device": _positions_on_the_host,
    "times made on the device": _times_on_the_host,
    "the mask of padded rows": _a_mask_that_is_looked_at,
    "the cast of autocast": _attention_before_its_cast,
    "places of labels": _labels_by_a_mask,
    "places of images": _images_by_a_mask,
    "the layout": _no_layout,
    "pinned memory": _ordinary_memory,
    "copies that do not block": _blocking_copies,
    "one question at the end of a step": _several_questions_at_the_end,
    "a model on one device": _queries_left_behind,
    "gradients of the tower": _a_frozen_tower,
}
