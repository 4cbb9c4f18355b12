"""Runs torchrun so that it exits with the training's own exit code and no traceback: ``python -m`` this module.

torch's torchrun exits with 1 whatever its processes did, under a traceback about itself. That would bury a fault in the
data, for which the training has printed file, record and fix and exits with 2. And torchrun kills its processes 30
seconds after a signal, while a checkpoint may take longer. Here a signal is forwarded, and the processes are awaited.
Everything else is torch's.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from types import FrameType

import psutil
from torch.distributed import DistError
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous.api import RendezvousError
from torch.distributed.run import main, parse_args

from minicpmv.errors import UsageError
from minicpmv.files.posix import signals
from minicpmv.machine.system import num_cores
from minicpmv.terminal.streams import complain
from minicpmv.training.launching.following import lead
from minicpmv.training.launching.launched import refuse_wrong_launch

__all__ = ["launch"]

WRONG_USE = 2
"""The training's exit code for a fault that its message explains completely."""

HANDED_ON = signals("SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP")
_ONE_EVENT = 1.0
"""Seconds. Ctrl-C arrives twice, from the terminal and from the script; a later second one is deliberate."""
_GLANCE = 0.2
"""Seconds between two checks whether processes train yet. Their imports take longer than that."""


class _Messenger:
    """Forwards signals to the training processes: the first two unchanged, later ones as SIGKILL."""

    def __init__(self) -> None:
        self.has_begun = False
        """Whether there have been training processes."""
        self._num_events = 0
        self._when = -_ONE_EVENT
        for number in HANDED_ON:
            # nohup ignores SIGHUP, which is kept. A script's `&` ignores SIGINT, which is not.
            if number.name != "SIGHUP" or signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._hand_on)

    def _hand_on(self, number: int, frame: FrameType | None) -> None:
        processes = psutil.Process().children()
        if not processes:
            when = "after the training processes had ended" if self.has_begun else "before the training began"
            print(f"stopped by {signal.Signals(number).name} {when}", file=sys.stderr, flush=True)
            os._exit(128 + number)  # torch's rendezvous waits in another thread
        if time.monotonic() - self._when > _ONE_EVENT:
            self._num_events += 1
            self._when = time.monotonic()
        for process in processes:
            try:
                process.send_signal(number if self._num_events <= 2 else signal.SIGKILL)
            except psutil.NoSuchProcess:
                continue


def launch(arguments: Sequence[str]) -> int:
    """Run torchrun and return the shell's exit code of the process that failed first: 128 + signal if killed.

    Args:
        arguments: torchrun's arguments.
    """
    try:
        refuse_wrong_launch(arguments)
    except UsageError as error:
        complain(f"error: {error}")
        return WRONG_USE
    _share_cores(arguments)
    lead()
    # Its errors are the processes' exit codes, which are reported below.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    ended: list[int] = []
    # In a thread torch sets no signal handlers, which would kill the processes while they save.
    torch_thread = threading.Thread(target=lambda: ended.append(_run(arguments)), daemon=True)
    messenger = _Messenger()
    torch_thread.start()
    while torch_thread.is_alive() and not messenger.has_begun:
        messenger.has_begun = bool(psutil.Process().children())
        torch_thread.join(_GLANCE)
    torch_thread.join()
    return ended[0] if ended else 1


def _share_cores(arguments: Sequence[str]) -> None:
    """Give each process its share of the machine's cores; torchrun gives one thread to each of several."""
    number = parse_args(list(arguments)).nproc_per_node
    if number.isdecimal():
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, num_cores() // int(number))))


def _run(arguments: Sequence[str]) -> int:
    try:
        main(list(arguments))
    except ChildFailedError as failed:
        rank, failure = failed.get_first_failure()
        if failure.exitcode < 0:
            name = signal.Signals(-failure.exitcode).name
            hint = ", which often means out of memory" if name == "SIGKILL" else ""
            print(f"training process {rank} was killed by {name}{hint}", file=sys.stderr)
            return 128 - failure.exitcode
        if failure.exitcode not in (WRONG_USE, *(128 + number for number in HANDED_ON)):
            print(f"training process {rank} exited with {failure.exitcode}; its message is above", file=sys.stderr)
        return failure.exitcode
    except (DistError, RendezvousError) as error:
        said = str(error).strip().partition("\n")[0]
        complain(
            f"error: machines: found that they cannot meet ({said}), expected NNODES of them that reach "
            "MASTER_ADDR:MASTER_PORT\n  fix: start all of them; free MASTER_PORT on the first one or choose another "
            "(unset, a single machine takes a free one)"
        )
        return WRONG_USE
    except SystemExit as wrong_use:  # from torchrun itself, which has printed its message
        return wrong_use.code if isinstance(wrong_use.code, int) else 1
    return 0


if __name__ == "__main__":
    sys.exit(launch(sys.argv[1:]))
