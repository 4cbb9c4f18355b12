"""``--torch_compile``: each layer of language model and tower is compiled where it stands, for training steps only.

transformers would compile the whole model around them, and anew for nearly every batch, because the numbers of slices
and samples are part of it. One layer is the same program at every place and for every batch; attention, which depends
on the lengths of sequences, stays outside. Answers and evaluation run uncompiled: a cache would make each token's step
another program.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.modeling_layers import GradientCheckpointingLayer

__all__ = [
    "CompiledLayers",
]


@dataclass(frozen=True)
class CompiledLayers(TrainerCallback):
    """Compiles layers at the start of training; the first step takes the time.

    Args:
        options: For ``torch.compile``; None: nothing is compiled.
    """

    options: Mapping[str, Any] | None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Compile the forward pass of each layer, once the engine has wrapped the model."""
        model: nn.Module = kwargs["model"]
        if self.options is None:
            return
        for module in model.modules():
            if isinstance(module, GradientCheckpointingLayer):
                module.forward = _compiled_in_training(module, self.options)


def _compiled_in_training(module: GradientCheckpointingLayer, options: Mapping[str, Any]) -> Callable[..., Any]:
    # The forward pass alone, so that what engines hook onto the module stays around it. Recomputation must, too: torch
    # compiles nothing beneath it otherwise. transformers 5.23 has it around `forward`, earlier ones around the module.
    eager: Any = module.forward
    is_wrapped = hasattr(eager, "__wrapped__")
    compiled: Any = torch.compile(inspect.unwrap(type(module).forward), dynamic=True, **options)

    def forward(*args: Any, **kwargs: Any) -> Any:
        if not module.training:
            return eager(*args, **kwargs)
        if is_wrapped and module.gradient_checkpointing:
            checkpoint: Any = module._gradient_checkpointing_func  # pyright: ignore[reportPrivateUsage]
            return checkpoint(partial(compiled, module, **kwargs), *args)
        return compiled(module, *args, **kwargs)

    return forward
