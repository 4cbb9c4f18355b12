"""Reads a checkpoint's files tensor by tensor under the model's own names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minicpmv.models.checkpoints.carried import own_names
from minicpmv.models.checkpoints.key_names import experts_of, is_expert, own_shapes, released_pieces
from minicpmv.models.checkpoints.weight_files import WeightReader, find_weight_files

__all__ = ["OwnTensors"]


class OwnTensors:
    """The tensors of a checkpoint as the model has them: one that is stored joined with others is cut out.

    Args:
        folder: The checkpoint.
        skeleton: Its model; no weights are needed.

    Raises:
        CheckpointError: A file is missing or broken.
    """

    def __init__(self, folder: Path, skeleton: Any) -> None:
        self.files = WeightReader(find_weight_files(folder))
        self._shapes = own_shapes(skeleton)
        pieces = released_pieces(skeleton)
        self.pieces = {name: pieces.get(name, (name,)) for name in own_names(self.files.outlines, skeleton)}
        """Name in the files -> the model's tensors that it consists of. What is carried is not among them."""
        self.homes = {own: name for name, owns in self.pieces.items() for own in owns}
        """The model's name -> that of the tensor in the files that holds it, or the last part of it."""

    def read(self, own: str) -> Tensor:
        """Read one of the model's tensors: in float32 and the model's shape, and the caller's to change."""
        home = self.homes[own]
        if home != own and is_expert(home):
            return self._read_experts(own)
        if self.pieces[home] == (own,):
            return self.files.read(home).reshape(self._shapes[own]).to(torch.float32, copy=True)
        sizes = [torch.Size(self._shapes[piece]).numel() for piece in self.pieces[home]]
        parts = dict(zip(self.pieces[home], self.files.read(home).flatten().split(sizes), strict=True))
        return parts[own].reshape(self._shapes[own]).to(torch.float32, copy=True)

    def _read_experts(self, own: str) -> Tensor:
        whole = torch.empty(self._shapes[own], dtype=torch.float32)
        for number, names in enumerate(experts_of(own, self.pieces)):
            torch.cat([self.files.read(name).to(torch.float32) for name in names], out=whole[number])
        return whole
