"""``python -m tests.run.two_gpus FLAGS``: the training command where two GPUs were counted. It trains on CPUs."""

from __future__ import annotations

import sys

import minicpmv.training.launching.starting as starting
from minicpmv.training.__main__ import main

if __name__ == "__main__":
    setattr(starting, "count_gpus", lambda flags: 2)  # noqa: B010  it is typed as what it was
    sys.exit(main(sys.argv[1:]))
