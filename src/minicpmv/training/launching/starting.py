"""Decides whether a command trains in its own process, or starts a process for each GPU of the machine and waits.

So ``minicpmv train`` uses all GPUs, as the scripts do, with the same launcher. A launched process starts no others.
Nothing here touches a GPU: a process that only waits uses no GPU memory.
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
from minicpmv.wording import counted

__all__ = ["count_gpus", "refuse_other_number", "start_processes"]


def start_processes(arguments: Sequence[str]) -> int | None:
    """Train in separate processes, where there should be several.

    Returns:
        The exit code of the training. None if this process itself should train, or report what is wrong with its flags.
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
            f"starting {number} processes, one per GPU; --num_processes 1, or fewer in CUDA_VISIBLE_DEVICES, leaves "
            "the others alone"
        )
    return launch(["--standalone", "--nproc_per_node", str(number), "-m", "--", "minicpmv.training", *arguments])


def count_gpus(flags: Sequence[str]) -> int:
    """Count the GPUs that a run with these flags would use, one process on each; a MIG slice is used alone.

    A separate process inspects them, as for the scripts, because inspecting takes memory on each.
    """
    if torch.cuda.device_count() < 2:
        return torch.cuda.device_count()
    command = [sys.executable, "-m", "minicpmv.training.launching.hardware", *flags]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    return int(told.stdout.split()[0]) if told.returncode == 0 else 0  # 0: the run itself reports the fault


def refuse_other_number(run: RunArguments) -> None:
    """Verify that ``--num_processes`` equals the number that a launcher has started on this machine.

    Raises:
        UsageError: The numbers differ.
    """
    started = num_launched("LOCAL_WORLD_SIZE" if "LOCAL_WORLD_SIZE" in os.environ else "WORLD_SIZE")
    if run.num_processes not in (None, started):
        raise UsageError(
            f"--num_processes: found {run.num_processes}, but a launcher has started "
            f"{counted(started, 'process', 'processes')} on this machine, expected the same number\n  fix: remove the "
            "flag; GPUS_PER_NODE of the scripts, or torchrun --nproc_per_node, sets it"
        )
