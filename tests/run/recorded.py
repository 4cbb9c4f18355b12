"""The training command, writing down which records each process reads: ``rank-N`` in the folder that RECORDED names."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from minicpmv.data.dataset import ConversationDataset
from minicpmv.training.run import main

_read = ConversationDataset.__getitem__
_notes = Path(os.environ["RECORDED"]) / f"rank-{os.environ['RANK']}"


def _recorded(self: ConversationDataset, index: int) -> dict[str, Any]:
    with _notes.open("a", encoding="utf-8") as notes:
        notes.write(f"{index}\n")
    return _read(self, index)


if __name__ == "__main__":
    ConversationDataset.__getitem__ = _recorded
    sys.exit(main(sys.argv[1:]))
