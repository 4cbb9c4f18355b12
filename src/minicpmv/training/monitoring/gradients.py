"""Computes the gradient norm of each part of the model, in addition to the total norm that Trainer logs.

With a sharding engine each process holds a shard of every gradient. It sums up its own shards, and one reduction of
five sums makes the norms: no gradient is gathered, and no tensor is copied.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from minicpmv.training.distributed.engine import load_deepspeed
from minicpmv.training.distributed.processes import add_up, num_processes
from minicpmv.training.learning.parts import PART_FLAGS, part_of, parts_of

__all__ = ["before_each_step", "part_norms", "part_norms_of", "total_norm"]

_norms_of: Any = torch._foreach_norm  # pyright: ignore[reportPrivateImportUsage]  what torch's clipping calls


def part_norms(model: nn.Module, *, device: torch.device, scale: float = 1.0) -> dict[str, float]:
    """Compute the gradient norm of each trained part, summed over micro-batches and processes, before clipping.

    Args:
        model: The model, bare or wrapped by PEFT. Every process must call it.
        device: Device on which processes exchange numbers.
        scale: Factor by which float16's loss scaling has multiplied the gradient.

    Returns:
        Norms by log key, ``grad_norm/vision_tower``, ...; their squares add up to that of the total norm.
    """
    places = parts_of(model)
    squares = {part: torch.zeros((), device=device) for part in PART_FLAGS}
    pieces: defaultdict[tuple[str, int, torch.device, torch.dtype], list[Tensor]] = defaultdict(list)
    learning: set[str] = set()
    is_sharded = False
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        part, piece = part_of(name, places), _find_piece(parameter)
        learning.add(part)
        is_sharded |= piece.num_copies < num_processes()
        if piece.gradient is not None:
            pieces[part, piece.num_copies, piece.gradient.device, piece.gradient.dtype].append(piece.gradient)
    for (part, num_copies, _, _), gradients in pieces.items():
        # As in torch's own clipping: a few kernels for all tensors, instead of five for each of 700.
        norms = torch.stack(_norms_of(gradients, 2, dtype=torch.float32))
        squares[part] = squares[part] + norms.square().sum().to(device) / num_copies
    sums = torch.stack(list(squares.values()))
    # Where every process holds the whole gradient, each contributes an equal share of the sum.
    total = add_up(sums) if is_sharded else sums * num_processes()
    return _as_logged(total.sqrt() / scale, learning)


def part_norms_of(norms: Mapping[str, Tensor], model: nn.Module) -> dict[str, float]:
    """Compute the same from the norm of each gradient, where the gradients themselves are gone.

    Args:
        norms: Norms by name of parameter.
        model: The model, in one process.
    """
    places = parts_of(model)
    of_parts: dict[str, list[Tensor]] = {part: [] for part in PART_FLAGS}
    for name, norm in norms.items():
        of_parts[part_of(name, places)].append(norm)
    zero = torch.zeros_like(next(iter(norms.values())))
    learning = {part_of(name, places) for name, weight in model.named_parameters() if weight.requires_grad}
    return _as_logged(torch.stack([total_norm(each or [zero]) for each in of_parts.values()]), learning)


def total_norm(norms: Iterable[Tensor]) -> Tensor:
    """Join the norms of all gradients of a process, as torch's clipping does.

    Args:
        norms: Scalars, of float32.

    Returns:
        A scalar.
    """
    return torch.linalg.vector_norm(torch.stack(list(norms)))


def _as_logged(norms: Tensor, learning: set[str]) -> dict[str, float]:
    """Name the norms of all parts, and leave out those in which nothing learns."""
    named = zip(PART_FLAGS, norms.tolist(), strict=True)
    return {f"grad_norm/{part.replace(' ', '_')}": norm for part, norm in named if part in learning}


class _Piece(NamedTuple):
    gradient: Tensor | None
    """This process's shard of a parameter's gradient; None if it has none."""
    num_copies: int
    """Number of processes that hold the same shard."""


def _find_piece(parameter: Any) -> _Piece:
    if hasattr(parameter, "ds_id"):  # ZeRO-3
        return _Piece(load_deepspeed().utils.safe_get_local_grad(parameter), 1)
    if hasattr(parameter, "_hp_mapping"):  # ZeRO-1 and 2 offer whole gradients only, gathered one by one
        mapping = parameter._hp_mapping
        if mapping is None:
            return _Piece(None, 1)
        gradient = mapping.get_lp_grad_fragment(parameter._index_in_param_group)
        own = mapping.lp_fragment_address
        if gradient.numel() > own.numel:  # DeepSpeed's bfloat16 optimizer sums the whole gradient in each process
            gradient = gradient.flatten().narrow(0, own.start, own.numel)
        return _Piece(gradient, 1)
    gradient = parameter.grad
    if isinstance(gradient, DTensor):
        mesh = gradient.device_mesh
        copies = [mesh.size(axis) for axis, placement in enumerate(gradient.placements) if placement.is_replicate()]
        return _Piece(gradient.to_local(), int(torch.tensor(copies, dtype=torch.int64).prod()))
    return _Piece(gradient, num_processes())


def before_each_step(engine: Any, action: Callable[[], None]) -> None:
    """Call ``action`` before each optimizer step of a DeepSpeed engine, with its gradients complete.

    accelerate runs backward pass and step in one call, and DeepSpeed has no hook in between. This may go when either
    offers one.
    """
    step = engine.step

    def step_after_action(*args: Any, **kwargs: Any) -> Any:
        action()
        return step(*args, **kwargs)

    engine.step = step_after_action
