"""Loads the weights of a checkpoint into the model in training, on any device and sharded or not.

It handles full models only: PEFT loads adapters, and DeepSpeed reads its own files.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule

from minicpmv.errors import CheckpointError
from minicpmv.files.checkpoint_folders import list_checkpoints
from minicpmv.models.checkpoints.loading import refuse_misfits
from minicpmv.models.checkpoints.own_tensors import OwnTensors
from minicpmv.models.skeleton import build_skeleton
from minicpmv.training.checkpoints.manifest import find_fault
from minicpmv.training.checkpoints.pickles import find_foreign_object
from minicpmv.training.distributed.fsdp import hand_out

__all__ = ["find_own_checkpoint", "restore_weights"]


def restore_weights(model: nn.Module, checkpoint: Path) -> None:
    """Replace a model's weights by a checkpoint's, in the model's precision. Every process must call it.

    It reads one tensor at a time, on the CPU, so neither host nor GPU memory holds a second model. Under FSDP2 rank 0
    reads and distributes the tensors.

    Raises:
        CheckpointError: The checkpoint does not fit the model, or a file of it is missing or broken.
    """
    skeleton = build_skeleton(checkpoint)
    tensors = OwnTensors(checkpoint, skeleton)
    refuse_misfits({name: tuple(each.shape) for name, each in tensors.files.outlines.items()}, skeleton, checkpoint)
    if isinstance(model, FSDPModule):
        hand_out(model, tensors.read, names=tensors.homes)
        return
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name in tensors.homes:  # else it is tied to a tensor that is
                tensor.copy_(tensors.read(name))


def find_own_checkpoint(output_dir: str, named: Path) -> Path:
    """Return the checkpoint of that name in a run's directory, verified as complete and free of foreign objects.

    Raises:
        CheckpointError: There is none that is.
    """
    own = Path(output_dir) / named.name
    found = "no checkpoint of this run" if own not in list_checkpoints(own.parent) else find_fault(own)
    found = found or find_foreign_object(own)
    if found is not None:
        raise CheckpointError(
            f"{own}: found {found}, expected the best checkpoint of this run\n"
            "  fix: start with --keep_best false, or put the checkpoint back"
        )
    return own
