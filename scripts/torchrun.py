"""torchrun, ending as the training ended: with its exit code, and without a traceback of the launcher's own.

torch's torchrun ends with 1 whatever its processes did, under a traceback about itself. A fault in the data would be
buried by it: the training has printed file, record and fix, and ends with 2. Everything else is torch's.
"""

from __future__ import annotations

import logging
import signal
import sys

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main

WRONG_USE = 2
"""The training's exit code for a fault that its message explains completely."""


def launch(arguments: list[str]) -> int:
    """Run torchrun and return the exit code of the process that failed first, as a shell counts: 128 + signal."""
    # Its errors are the processes' exit codes, which are told below.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        main(arguments)
    except SignalException as stopped:
        print(f"stopped by {stopped.sigval.name}", file=sys.stderr)
        return 128 + stopped.sigval
    except ChildFailedError as failed:
        rank, failure = failed.get_first_failure()
        if failure.exitcode < 0:
            name = signal.Signals(-failure.exitcode).name
            print(f"training process {rank} was ended by {name}; SIGKILL often means: out of memory", file=sys.stderr)
            return 128 - failure.exitcode
        if failure.exitcode != WRONG_USE:
            print(f"training process {rank} ended with {failure.exitcode}; its message is above", file=sys.stderr)
        return failure.exitcode
    return 0


if __name__ == "__main__":
    sys.exit(launch(sys.argv[1:]))
