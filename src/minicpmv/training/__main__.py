"""``python -m minicpmv.training FLAGS``, also under torchrun."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path


def _start() -> int:
    if not any(Path("/dev").glob("nvidia[0-9]*")):
        # OpenMP threads that wait by spinning slow a run on few cores down tenfold. Read when torch is loaded, so it is
        # set before; a user's own value stays.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return import_module("minicpmv.training.run").main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(_start())
