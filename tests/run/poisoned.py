"""The training command with a NaN in it.

POISONED counts, from 0, the record whose picture is not a number. POISONED_STATE is the step at whose end one value of
the last process's piece of the optimizer's state becomes none.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from minicpmv.data.samples.dataset import ConversationDataset
from minicpmv.training.loop.boundary import StepBoundary
from minicpmv.training.run import main

_read = ConversationDataset.__getitem__
_end = StepBoundary.on_step_end


def _poisoned(self: ConversationDataset, index: int) -> dict[str, Any]:
    item = _read(self, index)
    # All come with values, because bytes are always numbers.
    values = torch.from_numpy(self.processor.image_processor.normalise(item["pixel_values"].numpy()))
    del item["pixel_table"]
    return item | {"pixel_values": values.fill_(torch.nan) if index == int(os.environ["POISONED"]) else values}


def _poisoning(self: StepBoundary, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
    if state.global_step == int(os.environ["POISONED_STATE"]) and args.process_index == args.world_size - 1:
        optimizer = kwargs["optimizer"]
        while hasattr(optimizer, "optimizer"):
            optimizer = optimizer.optimizer
        averages = (each["exp_avg"] for each in optimizer.state.values() if "exp_avg" in each)
        pieces = (each.to_local() if isinstance(each, DTensor) else each for each in averages)
        next(piece for piece in pieces if piece.numel()).flatten()[0] = torch.nan
    _end(self, args, state, control, **kwargs)


if __name__ == "__main__":
    if "POISONED" in os.environ:
        ConversationDataset.__getitem__ = _poisoned
    if "POISONED_STATE" in os.environ:
        StepBoundary.on_step_end = _poisoning
    sys.exit(main(sys.argv[1:]))
