"""The training command, with one record whose picture is not a number: the one that POISONED counts, from 0."""

from __future__ import annotations

import os
import sys
from typing import Any

import torch

from minicpmv.data.dataset import ConversationDataset
from minicpmv.training.run import main

_read = ConversationDataset.__getitem__


def _poisoned(self: ConversationDataset, index: int) -> dict[str, Any]:
    item = _read(self, index)
    if index == int(os.environ["POISONED"]):
        item["pixel_values"] = torch.full_like(item["pixel_values"], torch.nan)
    return item


if __name__ == "__main__":
    ConversationDataset.__getitem__ = _poisoned
    sys.exit(main(sys.argv[1:]))
