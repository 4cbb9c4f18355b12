"""What each of several real processes of one machine holds of a large data set, and how long joining it takes.

    python -m benchmarks.held
    python -m benchmarks.held --records 5000000 --copies each

Records are generated as numbers: tokens as a run counts them, one picture with 59 bytes of path each, costs, and
positions of lines. Each process makes its part and joins it with the others' as a run does, through gloo. With
``--copies each`` arrays stay plain, and each process has a copy: what a run does where no file can be shared. *Private*
and *proportional* are what the kernel counts (``smaps_rollup``) beyond what the process held before: of a page that n
processes share, each counts an n-th. *Peak* is the most that a process held at a time, shared pages included.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist

from minicpmv.data import machine_copies
from minicpmv.data.machine_copies import join, keep
from minicpmv.data.media.image_digests import PictureDigests
from minicpmv.data.media.image_sizes import ImageSizes
from minicpmv.data.records.file_state import FileStates
from minicpmv.data.samples.token_counts import FIT
from minicpmv.data.sharing import Sharing, part_of
from minicpmv.training.distributed.processes import gather, meet
from minicpmv.training.distributed.together import work_together


def _hold(number: int, sharing: Sharing) -> list[Any]:
    """Make this process's part of so many records, and return what a run keeps of all."""
    mine = part_of(number, sharing)
    size = len(mine)
    fits = np.zeros(size, FIT)
    for name in ("length", "num_trained", "num_image_tokens", "num_patches"):
        fits[name] = np.arange(mine.start, mine.stop) % 4096 + 1
    sizes = ImageSizes.from_arrays(np.arange(1, size + 1), np.full(2 * size, 448, np.int32))
    names = b"".join(b"/data/pictures/of/many/kinds/in/many/folders/%010d.jpg\0" % each for each in mine)
    states = FileStates.from_arrays(np.frombuffer(names, np.uint8), np.ones((size, 2), np.int64))
    del names
    found: list[Any] = [join([fits], sharing)[0], sizes.joined(sharing)]
    pictures = PictureDigests([states.joined(sharing)], sharing=sharing)
    pictures.forget_names()
    found += [pictures, join([fits["length"].astype(np.float32)], sharing)[0]]
    return [*found, keep(np.arange(number), sharing), keep(np.arange(number) + 1, sharing)]


def _measure(number: int, copies: str) -> dict[str, Any]:
    """Hold the records in this process, and return MiB beyond what it held before, and seconds."""
    dist.init_process_group("gloo")
    meet()
    if copies == "each":
        machine_copies._WORTH_A_FILE = 2**62
    gather(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    before, started = _look(), time.perf_counter()
    held = work_together(lambda sharing: _hold(number, sharing))
    seconds = time.perf_counter() - started
    for each in held:
        if isinstance(each, np.ndarray):
            each.view(np.uint8).max()  # pages that this process has not seen count for nobody
    ctypes.CDLL(None).malloc_trim(0)
    gather(0)
    after = _look()
    gather(0)
    return {name: round(after[name] - before[name]) for name in after} | {"seconds": round(seconds, 1)}


def _look() -> dict[str, float]:
    lines = [line.split() for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]]
    found = {line[0]: int(line[1]) / 1024 for line in lines}
    status = [line.split() for line in Path("/proc/self/status").read_text().splitlines()]
    return {
        "private": found["Private_Clean:"] + found["Private_Dirty:"],
        "proportional": found["Pss:"],
        "peak": next(int(line[1]) / 1024 for line in status if line[0] == "VmHWM:"),
    }


def main() -> None:
    """Print a line of JSON with the MiB of the process that holds least and of the one that holds most."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--records", type=int, default=10_000_000)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--copies", default="machine", choices=["machine", "each"], help="who has one; default machine")
    asked = parser.parse_args()
    if "RANK" in os.environ:
        print(json.dumps(_measure(asked.records, asked.copies)), flush=True)
        os._exit(0)  # the threads of gloo are not waited for
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(asked.processes)}
    command = [sys.executable, "-m", "benchmarks.held", *sys.argv[1:]]
    running = [
        subprocess.Popen(command, env={**os.environ, **place, "RANK": str(rank)}, stdout=subprocess.PIPE, text=True)
        for rank in range(asked.processes)
    ]
    told = [json.loads(process.communicate()[0]) for process in running]
    spread = {name: [min(each[name] for each in told), max(each[name] for each in told)] for name in told[0]}
    print(json.dumps({"records": asked.records, "processes": asked.processes, "copies": asked.copies} | spread))


if __name__ == "__main__":
    main()
