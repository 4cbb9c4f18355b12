"""Decides whether a command trains in its own process, or starts a process for each GPU of the machine and waits.

So ``minicpmv train`` uses all GPUs, as the scripts do, and by the same launcher. What a launcher has started starts no
others. Nothing here touches a GPU: a process that only waits takes none of its memory.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

import torch

from minicpmv.errors import UsageError
from minicpmv.machine.system import num_launched
from minicpmv.training.distributed.console import notice
from minicpmv.training.flags.arguments import parse_arguments
from minicpmv.training.flags.declarations import RunArguments
from minicpmv.training.launching.following import is_launched
from minicpmv.training.launching.launcher import launch

__all__ = ["count_gpus", "refuse_other_number", "start_processes"]


def start_processes(arguments: Sequence[str]) -> int | None:
    """Train in processes of their own, where there shall be several.

    Returns:
        The exit code of the training. None: this very process is to train, or to say what is wrong with its flags.
    """
    if is_launched(os.environ):
        return None
    num_gpus = count_gpus(arguments)
    if num_gpus < 2 and not any("num_processes" in word.replace("-", "_") for word in arguments):
        return None
    try:
        asked = parse_arguments(arguments).run.num_processes
    except UsageError:
        return None
    number = max(1, num_gpus) if asked is None else asked
    if number == 1:
        return None
    if asked is None:
        notice(
            f"{number} processes train, one on each GPU; --num_processes 1, or fewer in CUDA_VISIBLE_DEVICES, leaves "
            "the others alone"
        )
    return launch(["--standalone", "--nproc_per_node", str(number), "-m", "--", "minicpmv.training", *arguments])


def count_gpus(flags: Sequence[str]) -> int:
    """Count the GPUs that a run with these flags would use, one process on each; a slice of a card stands alone.

    A process of its own looks at them, as for the scripts, because looking takes memory of each.
    """
    if torch.cuda.device_count() < 2:
        return torch.cuda.device_count()
    command = [sys.executable, "-m", "minicpmv.training.launching.hardware", *flags]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    return int(told.stdout.split()[0]) if told.returncode == 0 else 0  # 0: the run itself says what is wrong


def refuse_other_number(run: RunArguments) -> None:
    """Make sure that ``--num_processes`` is what a launcher has started on this machine.

    Raises:
        UsageError: It is not.
    """
    started = num_launched("LOCAL_WORLD_SIZE" if "LOCAL_WORLD_SIZE" in os.environ else "WORLD_SIZE")
    if run.num_processes not in (None, started):
        raise UsageError(
            f"--num_processes: found {run.num_processes} in a run of which a launcher has started {started} process(es)"
            " on this machine, expected the same\n  fix: remove the flag; GPUS_PER_NODE of the scripts, or "
            "torchrun --nproc_per_node, says it"
        )
