"""Which modules get LoRA: from the words or the regular expression of a flag to full names."""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import nn

from minicpmv.errors import UsageError
from minicpmv.training.flags.declarations import DEFAULT_LORA_TARGET

__all__ = ["PRESETS", "find_targets", "resolve_target"]

PRESETS = {
    "attention": DEFAULT_LORA_TARGET,
    "all-linear": r"llm\.model\.layers\.\d+\..*_proj",
    "vision-attention": r"vpm\.encoder\.layers\.\d+\.self_attn\.(q_proj|k_proj|v_proj|out_proj)",
    "vision-all-linear": r"vpm\.encoder\.layers\.\d+\..*(_proj|fc1|fc2)",
    # The rest of it are bare weights, or read by the released code past any module that LoRA could wrap.
    "resampler": r"resampler\.kv_proj",
}
"""Word of ``--lora_target_modules`` -> expression over full names."""


def resolve_target(written: str, *, layers: Sequence[int] | None = None, pattern: str | None = None) -> str:
    r"""Turn the flag into one regular expression over full names.

    Args:
        written: Words, each a preset or a last name inside the language model, or an expression. Bare names would also
            hit the vision tower's projections.
        layers: Only modules in layers of these numbers.
        pattern: Name of the list that ``layers`` counts; ``layers`` if not given.

    >>> resolve_target("q_proj,resampler")
    'llm\\..*\\.(q_proj)|resampler\\.kv_proj'
    """
    target = written
    if re.fullmatch(r"[\w-]+(,\s*[\w-]+)*,?", written):
        words = [word.strip() for word in written.split(",") if word.strip()]
        names = "|".join(word for word in words if word not in PRESETS)
        target = "|".join([rf"llm\..*\.({names})"] * bool(names) + [PRESETS[word] for word in words if word in PRESETS])
    if layers is None:
        return target
    # PEFT has an option for this, but takes it only with a list of names.
    return rf"(?=.*\b{re.escape(pattern or 'layers')}\.({'|'.join(str(layer) for layer in layers)})\.)({target})"


def find_targets(model: nn.Module, written: str, *, layers: Sequence[int] | None, pattern: str | None) -> list[str]:
    """Return the full names of the modules that get LoRA.

    Raises:
        UsageError: The flag is no expression, or matches nothing, or something that cannot carry LoRA.
    """
    try:
        target = re.compile(resolve_target(written, layers=layers, pattern=pattern))
    except re.error as error:
        raise UsageError(
            f"--lora_target_modules: found {written!r}, no regular expression ({error}), expected one\n"
            "  fix: correct or quote it"
        ) from error
    modules = dict(model.named_modules())
    hits = [name for name in modules if target.fullmatch(name)]
    for layer in layers or []:
        if not any(re.search(rf"\b{re.escape(pattern or 'layers')}\.{layer}\.", hit) for hit in hits):
            raise UsageError(
                f"--lora_layers_to_transform: found {layer}, but no target lies in a layer of that number, expected "
                f"numbers from 0 of {pattern or 'layers'!r}\n  fix: correct it"
            )
    if not hits:
        raise UsageError(
            f"--lora_target_modules: found {written!r}, which matches no module, expected names like "
            f"{_example(modules)}\n  fix: correct the expression; it must match a full name, or be words out of "
            f"{', '.join(PRESETS)}"
        )
    for hit in hits:
        kind = type(modules[hit])
        if not issubclass(kind, nn.Linear):
            raise UsageError(
                f"--lora_target_modules: found {written!r}, which matches {hit or 'the whole model'}, a "
                f"{kind.__name__}, expected linear layers only\n"
                f"  fix: narrow the expression; its modules are named like {_example(modules)}"
            )
    for word in written.split(","):
        if word in PRESETS and not any(re.fullmatch(PRESETS[word], hit) for hit in hits):
            raise UsageError(
                f"--lora_target_modules: found {word}, which matches no module of this model, expected one that does\n"
                "  fix: remove that word"
            )
    return hits


def _example(names: dict[str, nn.Module]) -> str:
    return next((name for name in names if name.endswith("q_proj") and name.startswith("llm.")), "llm.model")
