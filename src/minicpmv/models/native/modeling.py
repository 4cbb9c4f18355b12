"""Models of 4.6 and 4.7: transformers' own classes, joined with pictures, packing and loss as those of all releases.

Names of modules, keys and what is saved are the released ones. What comes as transformers' own processor gives it, the
released class computes; what comes as this package's batches are, this one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationMixin
from transformers import MiniCPMV4_6ForConditionalGeneration as ReleasedModel4_6
from transformers import MiniCPMV4_7ForConditionalGeneration as ReleasedModel4_7
from transformers.core_model_loading import WeightConverter

from minicpmv.models.checkpoints.weight_files import find_float32
from minicpmv.models.joining.model import JoinedModel
from minicpmv.models.native.configuration import MiniCPMV4_6Config, MiniCPMV4_7Config
from minicpmv.models.native.exchanged import exchange
from minicpmv.models.native.linear_attention import LinearAttention
from minicpmv.models.native.tower import NativeMerger, NativeTower, halve, merges_inside

__all__ = ["MiniCPMV4_6ForConditionalGeneration", "MiniCPMV4_7ForConditionalGeneration"]

_NATIVE = ("target_sizes", "target_sizes_videos", "pixel_values_videos", "mm_encoder_outputs", "mm_token_type_ids",
           "downsample_mode")  # fmt: skip
"""Arguments that only the released classes know."""


def _is_native(given: Mapping[str, Any]) -> bool:
    return any(given.get(name) is not None for name in _NATIVE)


def _knows_both(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let a forward pass say by its signature, which ``generate`` asks, what it takes: ours, and the native names."""
    parameters = dict(inspect.signature(JoinedModel.forward).parameters)
    rest = parameters.pop("kwargs")
    native = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in _NATIVE]
    setattr(function, "__signature__", inspect.Signature([*parameters.values(), *native, rest]))  # noqa: B010
    return function


class _NativeModel(JoinedModel):
    """What both have in common."""

    _released: type
    """transformers' class."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.take_over()

    def take_over(self) -> None:
        """Let the parts of a built network compute as batches of this package need it."""
        exchange(self.tower, NativeTower)
        self.tower.take_over(self.config)
        exchange(self.connector, NativeMerger)
        for layer in self.layers:
            if hasattr(layer, "linear_attn"):
                exchange(layer.linear_attn, LinearAttention)
        self.settle(self.config)

    @classmethod
    def _load_pretrained_model(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls, model: Any, state_dict: Mapping[str, Any] | None, checkpoint_files: list[str] | None, load_config: Any,
        *args: Any,
    ) -> Any:  # fmt: skip
        """Keep in float32 what is there in float32, whatever precision is asked for."""
        if state_dict is not None:
            wide = {name for name, tensor in state_dict.items() if tensor.dtype == torch.float32}
        else:
            wide = find_float32(checkpoint_files or [])
        for end in model.config.minicpmv_version.network.may_stay_float32:
            if load_config.dtype != torch.float32 and any(name.endswith(end) for name in wide):
                load_config.dtype_plan[end.removeprefix(".")] = torch.float32
        load: Any = super()._load_pretrained_model
        loaded = load(model, state_dict, checkpoint_files, load_config, *args)
        # Under ZeRO-3 transformers remembers every name that it might have changed, not only those that it has, and
        # would change all of them back in what is saved.
        if hasattr(next(model.parameters()), "ds_id"):
            remembered = getattr(model, "_weight_conversions", None) or []
            model._weight_conversions = [each for each in remembered if isinstance(each, WeightConverter)]
        return loaded

    @property
    def unread(self) -> tuple[str, ...]:
        """Override: a tower that merges nothing does not read what it would merge with."""
        return () if merges_inside(self.config) else (f"{self.parts.tower}.vit_merger",)

    def sizes_seen(self, sizes: Sequence[tuple[int, int]]) -> Sequence[tuple[int, int]]:
        """Override: the tower merges windows, or not."""
        return halve(sizes) if merges_inside(self.config) else sizes

    def get_image_features(self, *args: Any, **kwargs: Any) -> Any:
        """See :meth:`SeesPictures.get_image_features`; with ``target_sizes``, transformers' own."""
        if _is_native(kwargs):
            return self._released.get_image_features(self, *args, **kwargs)
        return super().get_image_features(*args, **kwargs)

    @_knows_both
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """See :meth:`JoinsPictures.forward`; with transformers' own names for pictures, its forward pass."""
        if _is_native(kwargs):
            return self._released.forward(self, *args, **kwargs)
        return super().forward(*args, **{name: given for name, given in kwargs.items() if name not in _NATIVE})

    def prepare_inputs_for_generation(self, input_ids: Tensor, **kwargs: Any) -> dict[str, Any]:
        """See :meth:`DrawsTokens.prepare_inputs_for_generation`; with transformers' own names, its own."""
        if _is_native(kwargs):
            return self._released.prepare_inputs_for_generation(self, input_ids, **kwargs)
        return super().prepare_inputs_for_generation(input_ids, **kwargs)

    def _prepare_multimodal_encoder_kwargs_for_generation(self, model_kwargs: dict[str, Any]) -> Any:
        """Leave our pictures for the first step, which sees them; transformers would look at them before."""
        if _is_native(model_kwargs):
            return self._released._prepare_multimodal_encoder_kwargs_for_generation(self, model_kwargs)
        return model_kwargs


class MiniCPMV4_6ForConditionalGeneration(  # pyright: ignore[reportIncompatibleMethodOverride, reportIncompatibleVariableOverride]
    _NativeModel, ReleasedModel4_6
):
    """4.6."""

    config_class = MiniCPMV4_6Config
    _released = ReleasedModel4_6


class MiniCPMV4_7ForConditionalGeneration(  # pyright: ignore[reportIncompatibleMethodOverride, reportIncompatibleVariableOverride]
    _NativeModel, ReleasedModel4_7
):
    """4.7."""

    config_class = MiniCPMV4_7Config
    _released = ReleasedModel4_7

    def _prepare_position_ids_for_generation(self, inputs_tensor: Any, model_kwargs: dict[str, Any]) -> Any:
        """Keep transformers from what it remembers of an earlier prompt, unless this one is its own."""
        owner: Any = self._released if _is_native(model_kwargs) else GenerationMixin
        return owner._prepare_position_ids_for_generation(self, inputs_tensor, model_kwargs)
