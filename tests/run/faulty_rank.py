"""``python -m tests.run.faulty_rank HOW FLAGS``: the training command, whose last process fails while it checks data.

HOW is ``killed``, as for want of memory, or ``broken``: by an error that nobody expects.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from minicpmv.data.checks.checking import RecordChecker
from minicpmv.training.__main__ import main


def _fail(*arguments: Any) -> None:
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    raise RuntimeError("the last process cannot go on")


if __name__ == "__main__":
    how, *flags = sys.argv[1:]
    if int(os.environ["RANK"]) == int(os.environ["WORLD_SIZE"]) - 1:
        setattr(RecordChecker, "check", _fail)  # noqa: B010  another signature
    sys.exit(main(flags))
