"""``python -m tests.run.one_reader FOLDER FLAGS``: the training command, writing down where it has read the weights to.

Each process writes the kinds of devices of all parameters to a file of FOLDER that is named by its rank.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from minicpmv.training.__main__ import main
from minicpmv.training.start import learner

if __name__ == "__main__":
    folder, *flags = sys.argv[1:]
    load = learner.load_base

    def load_and_tell(*args: Any) -> Any:
        model = load(*args)
        devices = sorted({parameter.device.type for parameter in model.parameters()})
        Path(folder, os.environ["RANK"]).write_text(" ".join(devices))
        return model

    setattr(learner, "load_base", load_and_tell)  # noqa: B010  it is typed as what it was
    sys.exit(main(flags))
