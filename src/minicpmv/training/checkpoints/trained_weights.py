"""Checks the trained weights that this process holds: whether they are finite, and whether they have changed.

An engine may give a process a shard of each tensor, or an empty placeholder. Only the answers are gathered, so both
checks cost one pass over the process's own shards.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from minicpmv.errors import NotFiniteError
from minicpmv.models.finiteness import find_not_finite
from minicpmv.releases.row import Parts
from minicpmv.training.checkpoints.optimizer_state import own_state
from minicpmv.training.distributed.fsdp import reshard
from minicpmv.training.distributed.processes import gather
from minicpmv.training.learning.parts import is_lora_tensor, part_of, parts_of
from minicpmv.wording import name_few

__all__ = ["ChangeWatch", "checksums", "refuse_not_finite"]

_FIRST = (".lora_A.", ".lora_embedding_A.")
_AT_ONCE = 2**24
"""Number of values that are copied at a time."""


def refuse_not_finite(model: nn.Module, *, where: str, fix: str, optimizer: Any = None) -> None:
    """Verify that all trained weights are finite. Every process must call it, and all raise the same error.

    Args:
        model: The model whose trained weights are checked.
        optimizer: Its state is checked as well; None if it is not saved.
        where: Beginning of the message.
        fix: End of the message.

    Raises:
        NotFiniteError: A weight, or a value of the optimizer's state, is NaN or infinite on some process.
    """
    state = () if optimizer is None else own_state(optimizer, model)
    everywhere = gather((find_not_finite(_own_pieces(model)), find_not_finite(state)))
    broken = [name for name, _ in model.named_parameters() if any(name in names for names, _ in everywhere)]
    kind = "trained tensor{}"
    if not broken:
        broken = list(dict.fromkeys(name for _, names in everywhere for name in names))
        kind = "tensor{} of the optimizer's state"
    if broken:
        raise NotFiniteError(
            f"{where}: found {len(broken)} {kind.format('s' * (len(broken) > 1))} with values that are not finite "
            f"(NaN or infinite): {name_few(broken)}, expected finite ones; nothing of this step was saved\n  fix: {fix}"
        )


class ChangeWatch(TrainerCallback):
    """Remembers the trained weights' checksums when training begins, to report at the end what has changed.

    It does nothing in a resumed run, whose weights changed before.
    """

    def __init__(self) -> None:
        self._before: dict[str, int] | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Remember what the weights are before the first step; a resumed run has trained already."""
        self._before = None if state.global_step else checksums(kwargs["model"])

    def unchanged_parts(self, model: nn.Module) -> tuple[list[str], int]:
        """Name the trained parts in which nothing has changed. Every process must call it.

        Returns:
            Such parts in the order of the model, as ``vision tower`` or ``language model (LoRA)``; and the number of
            trained parts.
        """
        now = checksums(model)
        part_of_each = {name: _learning_part(name, parts_of(model)) for name in now}
        parts = list(dict.fromkeys(part_of_each.values()))
        if self._before is None:
            return [], len(parts)
        changed = {part_of_each[name] for name, value in now.items() if self._before[name] != value}
        changed_anywhere = set().union(*gather(changed))
        return [part for part in parts if part not in changed_anywhere], len(parts)


def checksums(model: nn.Module) -> dict[str, int]:
    """Sum the bits of this process's shard of each trained weight. A changed weight has another sum.

    LoRA's first matrix is left out. Its gradient is 0 until the second one has changed, so on its own it changes only
    by weight decay, which has no effect on the model.
    """
    reshard(model)
    return {name: _checksum(piece) for name, piece in _own_pieces(model) if not any(each in name for each in _FIRST)}


def _learning_part(name: str, parts: Parts) -> str:
    return part_of(name, parts) + (" (LoRA)" if is_lora_tensor(name) else "")


def _own_pieces(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and ".original_module." not in name:
            yield name, _own_piece(parameter)


def _own_piece(parameter: Any) -> Tensor:
    with torch.no_grad():
        if isinstance(parameter, DTensor):
            return parameter.to_local()
        if not hasattr(parameter, "ds_id"):
            return parameter.detach()
        piece = parameter.ds_tensor  # ZeRO-3 cuts equal shards; the padding behind the tensor's end was never written
        begin = torch.distributed.get_rank(parameter.ds_process_group) * piece.numel()
        return piece.narrow(0, 0, max(0, min(piece.numel(), parameter.ds_numel - begin)))


def _checksum(tensor: Tensor) -> int:
    return sum(_checksum_of_few(values) for values in tensor.detach().contiguous().flatten().split(_AT_ONCE))


def _checksum_of_few(values: Tensor) -> int:
    data = (values + 0).view(torch.uint8)  # -0 becomes 0, as an update by zero would make it
    end = data.numel() // 8 * 8
    # Eight bytes at a time: summing value by value takes ten times as long.
    return int(data[:end].view(torch.int64).sum()) + int(data[end:].sum(dtype=torch.int64))
