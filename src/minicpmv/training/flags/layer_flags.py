"""Resolves what is done to each layer of a model: its activations recomputed, its program compiled."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from transformers import TrainingArguments

from minicpmv.errors import UsageError
from minicpmv.machine.tools import refuse_without_tools
from minicpmv.machine.value import Machine
from minicpmv.training.flags.arguments import RunArguments

__all__ = ["settle_compilation", "settle_recomputation"]

# transformers 5.20, the last for Python 3.10, has the old name only.
_WHOLE = next(
    name
    for name in ("activation_checkpointing", "gradient_checkpointing")
    if name in {item.name for item in fields(TrainingArguments)}
)


def settle_recomputation(run: RunArguments, settings: dict[str, Any]) -> None:
    """Decide for each part what its own switch left open, and whether transformers has to switch anything on.

    Args:
        run: The flags, changed in place.
        settings: Keyword arguments for ``TrainingArguments``, changed in place.

    Raises:
        UsageError: There are options for recomputing, and nothing is recomputed.
    """
    whole = bool(settings.get(_WHOLE))
    for name in ("llm_activation_checkpointing", "vision_activation_checkpointing"):
        if getattr(run, name) is None:
            setattr(run, name, whole)
    settings[_WHOLE] = bool(run.llm_activation_checkpointing or run.vision_activation_checkpointing)
    if settings.get(f"{_WHOLE}_kwargs") and not settings[_WHOLE]:
        raise UsageError(
            f"--{_WHOLE}_kwargs: found without --{_WHOLE} true, so nothing would read it\n  fix: add it, or remove "
            "this flag"
        )


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
