"""Keeps rotary frequencies in float32 when a model is loaded or cast.

``from_pretrained(dtype=...)`` does so already, except under ZeRO-3 with transformers before 5.23. ``model.to(dtype)``,
``model.half()`` and DeepSpeed's engine cast buffers too, and a frequency rounded to bfloat16 turns the angles of late
tokens by whole radians.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

__all__ = ["ExactRotary"]

# transformers' names: the frequencies in use, and those to go back to from a longer context's.
_FREQUENCIES = ("inv_freq", "original_inv_freq")


class ExactRotary:
    """Makes casts leave the language model's rotary frequencies alone. Stands before ``PreTrainedModel`` among bases.

    May go when transformers keeps them itself, as it does for the modules that a model lists as float32.
    """

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Load as transformers does, then compute again what was rounded while the model was built."""
        loaded = cast("Any", super()).from_pretrained(*args, **kwargs)
        _restore(loaded[0] if isinstance(loaded, tuple) else loaded)
        return loaded

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        model = cast("nn.Module", self)
        before = [
            (module, name, frequencies)
            for module in model.modules()
            for name, frequencies in module.named_buffers(recurse=False)
            if name in _FREQUENCIES
        ]
        applied = cast("Any", super())._apply(fn, recurse)
        for module, name, frequencies in before:
            cast_ones = module.get_buffer(name)
            if cast_ones.dtype != frequencies.dtype and not frequencies.is_meta:
                setattr(module, name, frequencies.to(cast_ones.device))
        return applied


def _restore(model: nn.Module) -> None:
    for module in model.modules():
        kept = {name: each for name, each in module.named_buffers(recurse=False) if name in _FREQUENCIES}
        rounded = {name: each for name, each in kept.items() if each.dtype != torch.float32 and not each.is_meta}
        if rounded:
            exact = type(module)(config=cast("Any", module).config)
            for name, each in rounded.items():
                setattr(module, name, exact.get_buffer(name).to(each.device))
