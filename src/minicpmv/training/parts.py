"""What learns: which parts of the model are trained, and the table that says so before a run starts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from torch import nn

__all__ = ["PartSummary", "choose_trained_parts", "format_parts", "part_of", "summarise_parts"]

_PARTS = (
    ("vision tower", "vpm."),
    ("resampler", "resampler."),
    ("token embeddings", "llm.model.embed_tokens."),
    ("output head", "llm.lm_head."),
    ("language model", "llm."),
)


@dataclass(frozen=True, slots=True)
class PartSummary:
    """One line of the table."""

    part: str
    parameters: int
    """Without LoRA matrices."""
    trainable: int
    how: Literal["full", "LoRA", "LoRA + full", "frozen"]


def choose_trained_parts(model: nn.Module, *, tune_llm: bool, tune_vision: bool) -> None:
    """Set what full fine-tuning trains. The resampler always learns."""
    for name, parameter in model.named_parameters():
        part = part_of(name)
        parameter.requires_grad_(part == "resampler" or (tune_vision if part == "vision tower" else tune_llm))


def part_of(name: str) -> str:
    """Name the part that a parameter belongs to.

    >>> part_of("base_model.model.llm.model.embed_tokens.modules_to_save.default.weight")
    'token embeddings'
    """
    bare = name.removeprefix("base_model.model.")
    for part, prefix in _PARTS:
        if bare.startswith(prefix):
            return part
    raise ValueError(f"parameter {name!r} belongs to no known part")


def summarise_parts(model: nn.Module) -> list[PartSummary]:
    """Count parameters per part: once, although PEFT keeps a frozen original beside each module it trains fully."""
    counts = {part: [0, 0, 0] for part, _ in _PARTS}  # own parameters, trained of those, LoRA
    for name, parameter in model.named_parameters():
        if ".original_module." in name:
            continue
        size = _size(parameter)
        count = counts[part_of(name)]
        if ".lora_" in name:
            count[2] += size if parameter.requires_grad else 0
            continue
        count[0] += size
        count[1] += size if parameter.requires_grad else 0
    return [
        PartSummary(part, own, trained + lora, _how(trained, lora)) for part, (own, trained, lora) in counts.items()
    ]


def _how(trained: int, lora: int) -> Literal["full", "LoRA", "LoRA + full", "frozen"]:
    if lora:
        return "LoRA + full" if trained else "LoRA"
    return "full" if trained else "frozen"


def _size(parameter: nn.Parameter) -> int:
    # ZeRO-3 leaves an empty shell on each process; 4-bit weights are packed two to a byte.
    if hasattr(parameter, "ds_numel"):
        return int(parameter.ds_numel)  # pyright: ignore[reportAttributeAccessIssue]
    quantised = getattr(parameter, "quant_state", None)
    return int(quantised.shape.numel()) if quantised is not None else parameter.numel()


def format_parts(summaries: Iterable[PartSummary]) -> str:
    """Write the table: part, parameters, trainable, share of the part that learns, and how."""
    rows = list(summaries)
    total, learning = sum(row.parameters for row in rows), sum(row.trainable for row in rows)
    cells = [("part", "parameters", "trainable", "share", "how")]
    cells += [(r.part, f"{r.parameters:,}", f"{r.trainable:,}", _share(r.trainable, r.parameters), r.how) for r in rows]
    cells.append(("all", f"{total:,}", f"{learning:,}", _share(learning, total), ""))
    widths = [max(len(row[column]) for row in cells) for column in range(5)]
    return "\n".join(
        f"{row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]:>{widths[3]}}  {row[4]}".rstrip()
        for row in cells
    )


def _share(count: int, total: int) -> str:
    return f"{100 * count / total:.2f}%" if total else "-"
