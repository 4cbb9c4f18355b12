"""Loads the weights of a checkpoint into the model in training, on any device and sharded or not.

It handles full models only: PEFT loads adapters, and DeepSpeed reads its own files.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule

from minicpmv.models.checkpoints.loading import refuse_misfits
from minicpmv.models.checkpoints.own_tensors import OwnTensors
from minicpmv.models.skeleton import build_skeleton
from minicpmv.training.distributed.fsdp import hand_out

__all__ = ["restore_weights"]


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
