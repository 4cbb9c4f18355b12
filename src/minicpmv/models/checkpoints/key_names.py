"""Released checkpoint keys to ours and back.

From 2.5 on the released names are ours and nothing happens here. MiniCPM-V-2's tower has timm's names, with query, key
and value in one matrix; transformers renames and splits while it loads, and joins again while it saves. Experts it does
the other way round: files have a matrix of each, the model one tensor for all of a layer.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import (
    Chunk,
    ConversionOps,
    WeightConverter,
    WeightRenaming,
    revert_weight_conversion,
)

__all__ = [
    "cut_expert",
    "experts_of",
    "is_expert",
    "own_shapes",
    "register_conversions",
    "released_pieces",
    "released_shapes",
]

_STACKS = {".experts.gate_up_proj": ("gate_proj", "up_proj"), ".experts.down_proj": ("down_proj",)}
"""End of the name of a tensor that holds all experts of a layer -> the matrices of each, as files have them."""


class _DropLeadingAxis(ConversionOps):
    """(1, N, D) in the file, (N, D) here: timm keeps its position table with a batch axis."""

    @torch.no_grad()
    def convert(
        self, input_dict: dict[str, Any], source_patterns: list[str], target_patterns: list[str], **kwargs: Any
    ) -> dict[str, Any]:
        (tensors,) = input_dict.values()
        tensor = tensors[0] if isinstance(tensors, list) else tensors
        return {target_patterns[0]: tensor.squeeze(0)}

    @property
    def reverse_op(self) -> ConversionOps:
        return _AddLeadingAxis()


class _AddLeadingAxis(ConversionOps):
    """The way back of ``_DropLeadingAxis``."""

    @torch.no_grad()
    def convert(
        self, input_dict: dict[str, Any], source_patterns: list[str], target_patterns: list[str], **kwargs: Any
    ) -> dict[str, Any]:
        (tensors,) = input_dict.values()
        tensor = tensors[0] if isinstance(tensors, list) else tensors
        return {target_patterns[0]: tensor.unsqueeze(0)}

    @property
    def reverse_op(self) -> ConversionOps:
        return _DropLeadingAxis()


def _timm_to_siglip() -> list[WeightConverter | WeightRenaming]:
    renamings = [
        WeightRenaming(r"patch_embed.proj", r"embeddings.patch_embedding"),
        WeightRenaming(r"blocks.", r"encoder.layers."),
        WeightRenaming(r"attn.proj", r"self_attn.out_proj"),
        WeightRenaming(r"norm1", r"layer_norm1"),
        WeightRenaming(r"norm2", r"layer_norm2"),
        WeightRenaming(r"^norm", r"post_layernorm"),
    ]
    converters = [
        WeightConverter("pos_embed", "embeddings.position_embedding.weight", operations=[_DropLeadingAxis()]),
        *(
            WeightConverter(
                f"attn.qkv.{kind}",
                [f"self_attn.{part}_proj.{kind}" for part in ("q", "k", "v")],
                operations=[Chunk(dim=0)],
            )
            for kind in ("weight", "bias")
        ),
    ]
    return [*renamings, *converters]


def register_conversions() -> None:
    """Tell transformers how the checkpoints of MiniCPM-V-2 name their tower; other releases need nothing."""
    register_checkpoint_conversion_mapping("TimmVisionTower", _timm_to_siglip(), overwrite=True)


def own_shapes(model: Any) -> dict[str, tuple[int, ...]]:
    """Name and shape of every saved tensor, as ``model.state_dict()`` has them; whole shapes under ZeRO-3 as well."""
    state = model.state_dict(keep_vars=True)
    # DeepSpeed leaves an empty tensor behind, which remembers its shape.
    return {name: tuple(getattr(tensor, "ds_shape", tensor.shape)) for name, tensor in state.items()}


def released_shapes(model: Any) -> dict[str, tuple[int, ...]]:
    """Name and shape of every saved tensor, as the released checkpoint of that version has them."""
    state = {name: torch.empty(shape, device="meta") for name, shape in own_shapes(model).items()}
    return {name: tuple(tensor.shape) for name, tensor in revert_weight_conversion(model, state).items()}


def released_pieces(model: Any) -> dict[str, tuple[str, ...]]:
    """Released name of every saved tensor -> the names of the model's tensors that it consists of.

    One after the other, these have the values of the released one in its order: pieces lie along the first axis. Of one
    expert's matrix it is the tensor that holds those of all; :func:`cut_expert` takes it out.
    """
    shapes = own_shapes(model)
    stacks = {name: shape[0] for name, shape in shapes.items() if name.endswith(tuple(_STACKS))}
    names = list(shapes)
    # Told apart after they were joined.
    numbers = {name: torch.tensor([number]) for number, name in enumerate(names) if name not in stacks}
    pieces = {
        released: tuple(names[number] for number in joined.flatten().tolist())
        for released, joined in revert_weight_conversion(model, numbers).items()
    }
    for stack, num_experts in stacks.items():
        holder, _, own = stack.rpartition(".")
        for kind in _STACKS[f".experts.{own}"]:
            pieces |= {f"{holder}.{number}.{kind}.weight": (stack,) for number in range(num_experts)}
    return pieces


def is_expert(released: str) -> bool:
    """Whether a released name is that of one expert's matrix.

    >>> is_expert("layers.0.mlp.experts.17.up_proj.weight"), is_expert("layers.0.mlp.experts.down_proj")
    (True, False)
    """
    return re.search(r"\.experts\.\d+\.(gate|up|down)_proj\.weight$", released) is not None


def cut_expert(released: str, stack: Tensor) -> Tensor:
    """Take one expert's matrix, by its released name, out of the tensor that holds those of all.

    >>> cut_expert("experts.1.up_proj.weight", torch.arange(8).view(2, 4, 1)).flatten().tolist()
    [6, 7]
    """
    *_, number, kind, _ = released.split(".")
    kinds = next(kinds for kinds in _STACKS.values() if kind in kinds)
    return stack[int(number)].chunk(len(kinds))[kinds.index(kind)]


def experts_of(stack: str, released: Iterable[str]) -> list[list[str]]:
    """Return the released names of an own tensor's matrices: of each expert, as they lie one after the other in it.

    Args:
        stack: The own tensor's name.
        released: Names that it has pieces under.
    """
    holder, _, own = stack.rpartition(".")
    kinds, names = _STACKS[f".experts.{own}"], set(released)
    found = itertools.takewhile(
        lambda group: group[0] in names,
        ([f"{holder}.{number}.{kind}.weight" for kind in kinds] for number in itertools.count()),
    )
    return list(found)
