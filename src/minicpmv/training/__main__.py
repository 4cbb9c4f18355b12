"""``python -m minicpmv.training FLAGS``, also under torchrun."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path


def main(arguments: Sequence[str]) -> int:
    """Run the command line in this process; return the exit code."""
    if not any(Path("/dev").glob("nvidia[0-9]*")):
        # OpenMP threads that wait by spinning slow a run on few cores down tenfold. Read when torch is loaded, so it is
        # set before; a user's own value stays.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        code = import_module("minicpmv.training.run").main(arguments)
        if code == 0:  # otherwise others may still wait for this process, and shall see it end
            import_module("minicpmv.training.processes").leave()
        return code
    except KeyboardInterrupt:  # while that is imported; a run says itself where it stopped
        print("stopped by SIGINT before the run began", file=sys.stderr)
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
