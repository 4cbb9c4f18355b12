"""Puts the weights of a checkpoint into the model that is trained, wherever its tensors lie and whoever holds a piece.

Only whole models come here: adapters are PEFT's, and DeepSpeed reads its own files.
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

    One tensor at a time is read, on the CPU, so neither the machine nor a GPU holds a second model meanwhile. Under
    FSDP2 the first process reads and hands out.

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
            if name in tensors.homes:  # else it is one with a tensor that is
                tensor.copy_(tensors.read(name))
