"""The parts of a model: what belongs to which, what full fine-tuning trains, and the table that says so."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from minicpmv.releases.row import Parts
from minicpmv.training.flags.declared.learning import LearningArguments

__all__ = [
    "PART_FLAGS",
    "PartSummary",
    "choose_trained_parts",
    "describe_recipe",
    "format_parts",
    "is_lora_tensor",
    "leave_out_unread",
    "part_of",
    "parts_of",
    "summarise_parts",
]

PART_FLAGS = {
    "vision tower": "tune_vision",
    "resampler": "tune_resampler",
    "token embeddings": "tune_embeddings",
    "output head": "tune_output_head",
    "language model": "tune_llm",
}
"""Part -> the switch that trains it."""

_OFFICIAL_BESIDE_LORA = {"vision tower", "resampler", "token embeddings"}
"""What the official script trains fully."""


@dataclass(frozen=True, slots=True)
class PartSummary:
    """One line of the table."""

    part: str
    parameters: int
    """Without LoRA matrices."""
    trainable: int
    how: str
    """``full``, ``LoRA``, ``biases``, two of them joined by `` + ``, ``frozen``; ``tied`` has no weights of its own."""
    learning_rates: list[float] = field(default_factory=list)
    """Of all that learns here, each once."""
    weight_decays: list[float] = field(default_factory=list)


def choose_trained_parts(model: nn.Module, run: LearningArguments) -> None:
    """Set what full fine-tuning trains, from switches that are all settled."""
    parts = parts_of(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(bool(getattr(run, PART_FLAGS[part_of(name, parts)])))
    leave_out_unread(model)


def leave_out_unread(model: Any) -> None:
    """Freeze what nothing reads as the config is, for which engines would wait in vain; PEFT may wrap the model."""
    bare = model.get_base_model() if hasattr(model, "peft_config") else model
    unread = tuple(f"{place}." for place in bare.unread)
    for name, parameter in model.named_parameters():
        if name.removeprefix("base_model.model.").replace(".modules_to_save.default.", ".").startswith(unread):
            parameter.requires_grad_(False)


def parts_of(model: Any) -> Parts:
    """Return where a model has its parts, as its release's row says; the model may be wrapped by PEFT."""
    return model.config.minicpmv_version.network.parts


def part_of(name: str, parts: Parts) -> str:
    """Name the part that a parameter belongs to.

    >>> part_of("base_model.model.llm.model.embed_tokens.modules_to_save.default.weight", Parts())
    'token embeddings'

    Raises:
        ValueError: No part has such a name.
    """
    bare = name.removeprefix("base_model.model.")
    # Embeddings and head lie inside the language model, and are asked for before it.
    found = {
        "vision tower": parts.tower,
        "resampler": parts.connector,
        "token embeddings": parts.embeddings,
        "output head": parts.head,
        "language model": parts.language_model,
    }
    for part, beginning in found.items():
        if bare.startswith(f"{beginning}."):
            return part
    raise ValueError(f"parameter {name!r} belongs to no known part")


def is_lora_tensor(name: str) -> bool:
    """Whether a parameter of a PEFT model is one of LoRA's own, DoRA's magnitudes included."""
    return ".lora_" in name


def summarise_parts(
    model: nn.Module, *, rates_of: Callable[[str], tuple[float, float]] | None = None
) -> list[PartSummary]:
    """Count parameters per part: once, although PEFT keeps a frozen original beside each module it trains fully.

    Args:
        model: The model, bare or wrapped by PEFT, with all that learns switched on.
        rates_of: Tells the learning rate and weight decay of a parameter by its name.
    """
    places, own = parts_of(model), dict.fromkeys(PART_FLAGS, 0)
    kinds: dict[str, dict[str, int]] = {part: {} for part in own}  # how it learns -> number of parameters
    rates: dict[str, set[tuple[float, float]]] = {part: set() for part in own}
    for name, parameter in model.named_parameters():
        if ".original_module." in name:
            continue
        part, size = part_of(name, places), _size(parameter)
        own[part] += 0 if is_lora_tensor(name) else size
        if parameter.requires_grad:
            kind = "LoRA" if is_lora_tensor(name) else "biases" if name.endswith("bias") else "full"
            kinds[part][kind] = kinds[part].get(kind, 0) + size
            if rates_of is not None:
                rates[part].add(rates_of(name))
    return [
        PartSummary(
            part,
            own[part],
            sum(kinds[part].values()),
            _how(kinds[part]) if own[part] else "tied",
            sorted({rate for rate, _ in rates[part]}, reverse=True),
            sorted({decay for _, decay in rates[part]}, reverse=True),
        )
        for part in own
    ]


def _how(kinds: Iterable[str]) -> str:
    found = set(kinds)
    if "full" in found:
        found.discard("biases")
    return " + ".join(kind for kind in ("LoRA", "full", "biases") if kind in found) or "frozen"


def _size(parameter: nn.Parameter) -> int:
    # ZeRO-3 leaves an empty shell on each process; 4-bit weights are packed two to a byte.
    if hasattr(parameter, "ds_numel"):
        return int(parameter.ds_numel)  # pyright: ignore[reportAttributeAccessIssue]
    quantized = getattr(parameter, "quant_state", None)
    return int(quantized.shape.numel()) if quantized is not None else parameter.numel()


def format_parts(summaries: Iterable[PartSummary]) -> str:
    """Write the table: each part, how much of it learns, how, and with which rate and decay if that is known."""
    rows = list(summaries)
    total, learning = sum(row.parameters for row in rows), sum(row.trainable for row in rows)
    cells = [("part", "parameters", "trainable", "share", "how", "learning rate", "weight decay")]
    cells += [
        (
            row.part,
            f"{row.parameters:,}",
            f"{row.trainable:,}",
            _share(row.trainable, row.parameters),
            row.how,
            ", ".join(f"{rate:g}" for rate in row.learning_rates),
            ", ".join(f"{decay:g}" for decay in row.weight_decays),
        )
        for row in rows
    ]
    cells.append(("all", f"{total:,}", f"{learning:,}", _share(learning, total), "", "", ""))
    shown = 7 if any(row.learning_rates for row in rows) else 5
    widths = [max(len(row[column]) for row in cells) for column in range(7)]
    aligned = (str.ljust, str.rjust, str.rjust, str.rjust, str.ljust, str.ljust, str.ljust)
    aligned_rows = (
        [align(cell, width) for align, cell, width in zip(aligned, row, widths, strict=True)] for row in cells
    )
    return "\n".join("  ".join(row[:shown]).rstrip() for row in aligned_rows)


def describe_recipe(summaries: Iterable[PartSummary]) -> str | None:
    """Say in one line which kind of LoRA a run trains, what share, and how to have the other; None without LoRA.

    >>> parts = PartSummary("vision tower", 10, 10, "full"), PartSummary("language model", 90, 9, "LoRA")
    >>> print(describe_recipe(parts))
    LoRA, and vision tower in full: 19.00% of all parameters learn (--lora_preset adapters_only: 9.00%)
    """
    rows = list(summaries)
    if not any("LoRA" in row.how for row in rows):
        return None
    total, learning = sum(row.parameters for row in rows), sum(row.trainable for row in rows)
    full = [row for row in rows if "full" in row.how]
    tied = any(row.how == "tied" for row in rows)  # embeddings that are also the head stay frozen
    recipe = _OFFICIAL_BESIDE_LORA - ({"token embeddings"} if tied else set())
    official = [row for row in rows if row.part in recipe]
    if not full:
        more = sum(row.parameters - row.trainable for row in official)
        return (
            f"LoRA alone: {_share(learning, total)} of all parameters learn (--lora_preset official, which also trains "
            f"{', '.join(row.part for row in official)} in full: {_share(learning + more, total)})"
        )
    name = "LoRA as in the official recipe" if {row.part for row in full} == _OFFICIAL_BESIDE_LORA else "LoRA"
    adapters = learning - sum(row.parameters for row in full)
    return (
        f"{name}, and {', '.join(row.part for row in full)} in full: {_share(learning, total)} of all parameters learn "
        f"(--lora_preset adapters_only: {_share(adapters, total)})"
    )


def _share(count: int, total: int) -> str:
    return f"{100 * count / total:.2f}%" if total else "-"
