"""Which modules and bare tensors get LoRA: from the words or the regular expression of a flag to full names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from torch import nn

from minicpmv.errors import UsageError
from minicpmv.releases.row import DEFAULT_LORA_TARGET, Network, Parts
from minicpmv.wording import suggest

__all__ = ["find_parameters", "find_targets", "network_of", "resolve_target"]

_DEFAULT_WORD = "attention"
"""What the flag means where it is not given; its default spells that out for the released models."""


def network_of(model: Any) -> Network:
    """Return what a model's release says of its network; the model may be wrapped by PEFT."""
    return model.config.minicpmv_version.network


def resolve_target(
    written: str, network: Network, *, layers: Sequence[int] | None = None, pattern: str | None = None
) -> str:
    r"""Turn the flag into one regular expression over full names of modules; empty where its words name none.

    Args:
        written: Words, each a preset or a last name inside the language model, or an expression. Bare names would also
            hit the vision tower's projections.
        network: Has the presets and names.
        layers: Only modules in layers of these numbers.
        pattern: Name of the list that ``layers`` counts; ``layers`` if not given.

    >>> from minicpmv.releases.table import UNSTATED
    >>> resolve_target("q_proj,resampler", UNSTATED.network)
    'llm\\..*\\.(q_proj)|resampler\\.kv_proj'
    """
    presets = network.lora_on
    target = presets[_DEFAULT_WORD] if written == DEFAULT_LORA_TARGET else written
    if words := _words(written):
        words = [word for word in words if word not in network.lora_parameters]
        names = "|".join(word for word in words if word not in presets)
        inside = rf"{re.escape(network.parts.language_model)}\..*\.({names})"
        target = "|".join([inside] * bool(names) + [presets[word] for word in words if word in presets])
    elif network.carried and written != DEFAULT_LORA_TARGET:
        # On the released class the expression must not reach what its checkpoint holds besides this model's modules.
        carried = "|".join(map(re.escape, network.carried))
        target = rf"(?!{carried})(?:{target})"
    return _in_layers(target, layers, pattern)


def _words(written: str) -> list[str]:
    """Return the words of the flag; none where it is an expression."""
    if not re.fullmatch(r"[\w-]+(,\s*[\w-]+)*,?", written):
        return []
    return [word.strip() for word in written.split(",") if word.strip()]


def _in_layers(target: str, layers: Sequence[int] | None, pattern: str | None) -> str:
    if layers is None or not target:
        return target
    # PEFT has an option for this, but takes it only with a list of names.
    return rf"(?=.*\b{re.escape(pattern or 'layers')}\.({'|'.join(str(layer) for layer in layers)})\.)({target})"


def find_parameters(model: nn.Module, written: str, *, layers: Sequence[int] | None, pattern: str | None) -> list[str]:
    """Return the full names of tensors that get LoRA and are no module of their own."""
    of_words = network_of(model).lora_parameters
    asked = "|".join(of_words[word] for word in _words(written) if word in of_words)
    target = re.compile(_in_layers(asked, layers, pattern))
    return [name for name, _ in model.named_parameters() if target.fullmatch(name)]


def find_targets(model: nn.Module, written: str, *, layers: Sequence[int] | None, pattern: str | None) -> list[str]:
    """Return the full names of the modules that get LoRA.

    Raises:
        UsageError: The flag is no expression, or matches nothing, or something that cannot carry LoRA.
    """
    network = network_of(model)
    presets = network.lora_on
    try:
        target = re.compile(resolve_target(written, network, layers=layers, pattern=pattern))
    except re.error as error:
        raise UsageError(
            f"--lora_target_modules: found {written!r}, no regular expression ({error}), expected one\n"
            "  fix: quote it for the shell and escape what is meant literally, or name modules: "
            f"--lora_target_modules {next(iter(presets))}"
        ) from error
    modules = dict(model.named_modules())
    if not target.pattern:
        return []
    hits = [name for name in modules if target.fullmatch(name)]
    for layer in layers or []:
        if not any(re.search(rf"\b{re.escape(pattern or 'layers')}\.{layer}\.", hit) for hit in hits):
            raise UsageError(
                f"--lora_layers_to_transform: found {layer}, but no target lies in a layer of that number, expected "
                f"numbers from 0 of {pattern or 'layers'!r}\n"
                "  fix: name layers that the model has and the targets lie in, such as --lora_layers_to_transform 0 1"
            )
    if not hits:
        raise UsageError(
            f"--lora_target_modules: found {written!r}, which matches no module, expected names "
            f"like {_example(modules, network.parts)}\n  fix: write an expression that matches full names, or words "
            f"out of {', '.join(presets)}"
        )
    for hit in hits:
        kind = type(modules[hit])
        if not issubclass(kind, nn.Linear):
            raise UsageError(
                f"--lora_target_modules: found {written!r}, which matches {hit or 'the whole model'}, a "
                f"{kind.__name__}, expected linear layers only\n"
                f"  fix: narrow the expression; its modules are named like {_example(modules, network.parts)}"
            )
    for word in _words(written):
        alone = re.compile(resolve_target(word, network, layers=layers, pattern=pattern))
        if word not in network.lora_parameters and not any(alone.fullmatch(hit) for hit in hits):
            advice = suggest(word, [*presets, *{hit.rpartition(".")[2] for hit in hits}], otherwise="remove that word")
            raise UsageError(
                f"--lora_target_modules: found {word}, which matches no module of this model, expected one that does\n"
                f"  fix: {advice}"
            )
    return hits


def _example(names: dict[str, nn.Module], parts: Parts) -> str:
    return next((name for name in names if name.endswith("q_proj") and name.startswith(f"{parts.layers}.")), parts.body)
