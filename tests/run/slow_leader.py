"""``python -m tests.run.slow_leader SECONDS WHAT,WHAT FLAGS``: the training command, whose first process is slow.

It takes so many seconds longer for each kind of work that it does for all processes: ``check`` data, ``write`` the
weights of a checkpoint.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from transformers import Trainer

import minicpmv.training.inputs.run_inputs as inputs
from minicpmv.training.__main__ import main
from minicpmv.training.distributed.console import is_first_process

_WORK: dict[str, tuple[Any, str]] = {
    "check": (inputs, "open_inputs"),
    "write": (Trainer, "_save"),
}


def _slowed(work: Callable[..., Any], seconds: float) -> Callable[..., Any]:
    def slow(*args: Any, **kwargs: Any) -> Any:
        time.sleep(seconds)
        return work(*args, **kwargs)

    return slow


if __name__ == "__main__":
    seconds, what, *flags = sys.argv[1:]
    if is_first_process():
        for each in what.split(","):
            owner, name = _WORK[each]
            setattr(owner, name, _slowed(getattr(owner, name), float(seconds)))
    sys.exit(main(flags))
