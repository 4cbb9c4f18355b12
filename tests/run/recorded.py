"""The training command, noting which records each process trains on: ``rank-N`` in the folder that RECORDED names.

What is read when training is over, to try what will be saved, is not written down.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from minicpmv.data.samples.dataset import ConversationDataset
from minicpmv.training.finish import completion
from minicpmv.training.run import main

_read, _choose = ConversationDataset.__getitem__, completion.choose_batch
_notes = Path(os.environ["RECORDED"]) / f"rank-{os.environ['RANK']}"


def _recorded(self: ConversationDataset, index: int) -> dict[str, Any]:
    with _notes.open("a", encoding="utf-8") as notes:
        notes.write(f"{index}\n")
    return _read(self, index)


def _unrecorded(*arguments: Any, **named: Any) -> Any:
    ConversationDataset.__getitem__ = _read
    return _choose(*arguments, **named)


if __name__ == "__main__":
    ConversationDataset.__getitem__ = _recorded
    completion.choose_batch = _unrecorded
    sys.exit(main(sys.argv[1:]))
