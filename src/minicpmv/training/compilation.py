"""``--torch_compile``: each layer of language model and tower is compiled where it stands, for training steps only.

transformers would compile the whole model around them, and anew for nearly every batch, because the numbers of slices
and samples are part of it. One layer is the same program at every place and for every batch; attention, which depends
on the lengths of sequences, stays outside. Answers and evaluation run uncompiled: a cache would make each token's step
another program.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.modeling_layers import GradientCheckpointingLayer

from minicpmv.errors import UsageError
from minicpmv.machine.tools import refuse_without_tools
from minicpmv.machine.value import Machine
from minicpmv.training.arguments import RunArguments

__all__ = ["CompiledLayers", "settle_compilation"]


@dataclass(frozen=True)
class CompiledLayers(TrainerCallback):
    """Compiles layers at the start of training; the first step takes the time.

    Args:
        options: For ``torch.compile``; None: nothing is compiled.
    """

    options: dict[str, Any] | None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        model: nn.Module = kwargs["model"]
        if self.options is None:
            return
        for module in model.modules():
            if isinstance(module, GradientCheckpointingLayer):
                module.forward = _compiled_in_training(module, self.options)


def _compiled_in_training(module: GradientCheckpointingLayer, options: dict[str, Any]) -> Callable[..., Any]:
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


def settle_compilation(run: RunArguments, settings: dict[str, Any], machine: Machine) -> None:
    """Take what was asked for away from transformers.

    Args:
        run: The flags, changed in place.
        settings: Keyword arguments for ``TrainingArguments``, changed in place.
        machine: Has the tools, or has not.

    Raises:
        UsageError: There are options for compiling, and nothing is compiled.
        MachineError: There is nothing to compile with.
    """
    asked = settings.pop("torch_compile", None)
    options = {
        name: value
        for name in ("backend", "mode")
        if (value := settings.pop(f"torch_compile_{name}", None)) is not None
    }
    if asked is False and options:
        raise UsageError(
            f"--torch_compile false --torch_compile_{next(iter(options))}: found both, so nothing would read the "
            "second\n  fix: remove one of them"
        )
    if not (asked or options):
        return
    run.compilation = options
    if options.get("backend", "inductor") == "inductor":
        compiled = "layers on a processor" if settings["use_cpu"] else "layers on a GPU"
        refuse_without_tools(machine, compiled, asked_by="--torch_compile", otherwise="remove the flag")
