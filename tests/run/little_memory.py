"""``python -m tests.run.little_memory MIB FLAGS``: the training command, with no more memory from its first step on.

It may take so many MiB beyond what it has then. The system refuses everything else, as a full machine does.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from typing import Any

from minicpmv.training.__main__ import main
from minicpmv.training.loop.trainer import MiniCPMVTrainer

_PAGE = resource.getpagesize()


def _limit(num_bytes: int) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * _PAGE + num_bytes, resource.RLIM_INFINITY))


if __name__ == "__main__":
    mib, *flags = sys.argv[1:]
    step = MiniCPMVTrainer.training_step

    def training_step(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == 0:
            _limit(int(mib) * 2**20)
        return step(self, *args, **kwargs)

    MiniCPMVTrainer.training_step = training_step
    sys.exit(main(flags))
