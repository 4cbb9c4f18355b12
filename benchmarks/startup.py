"""What a start takes until its first step has ended, and what training costs afterwards, by number of records.

    python benchmarks/startup.py

The data of ``large_data.py``, the tiny fixture of 2.6, and the training command in processes of its own, watched from
outside: seconds until the line of step 1 appears, and processor seconds spent by then, workers included. *first start*
finds nothing kept, *second start* what the first has found. Training is measured between two of its steps: processor
milliseconds for a record, which other work on the machine changes little, and the memory of the process at the end.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import psutil
from large_data import FIXTURE, make_data, make_pictures

SIZES = (1_000, 10_000, 100_000)
BATCH = 4
WARM, LAST = 20, 220
"""Steps between which training is measured."""


class Moment(NamedTuple):
    """A process, when it has ended a step."""

    seconds: float
    """Since it was started."""
    cpu_seconds: float
    """Spent by it and by the workers that it has waited for."""
    memory_mib: float


def watch(data: Path, folder: Path, *extra: str, steps: tuple[int, ...]) -> list[Moment]:
    """Train until the last of these steps has ended, and tell what was spent at each."""
    words = ["--model_name_or_path", str(FIXTURE), "--data_path", str(data), "--output_dir", str(folder / "output")]
    words += f"--max_steps {max(steps) + 1} --logging_steps 1 --report_to none --save_strategy no".split()
    words += f"--packing false --per_device_train_batch_size {BATCH} --overwrite_output_dir true".split()
    words += ["--gradient_accumulation_steps", "1", "--activation_checkpointing", "false"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    started, moments = time.perf_counter(), list[Moment]()
    command = [sys.executable, "-m", "minicpmv.training", *words, *extra]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as run:
        process = psutil.Process(run.pid)
        assert run.stdout is not None
        for line in run.stdout:
            if line.startswith(tuple(f"step {step}/" for step in steps)):
                spent, memory = process.cpu_times(), process.memory_info().rss
                total = spent.user + spent.system + spent.children_user + spent.children_system
                moments.append(Moment(time.perf_counter() - started, total, memory / 2**20))
            if len(moments) == len(steps):
                run.kill()
    if len(moments) < len(steps):
        raise SystemExit(f"the run ended early, with {run.returncode}")
    return moments


def main() -> None:
    """Print two tables."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_pictures(folder)
        kept = ("--data_cache", str(folder / "kept"))
        print("until the first step has ended: seconds (of a processor)")
        print(f"{'records':>9}{'--data_cache false':>24}{'first start':>24}{'second start':>24}")
        for size in SIZES:
            data = make_data(folder, size)
            starts = [watch(data, folder, *extra, steps=(1,))[0] for extra in (("--data_cache", "false"), kept, kept)]
            cells = [f"{start.seconds:.1f} s ({start.cpu_seconds:.1f} s)" for start in starts]
            print(f"{size:>9,}" + "".join(f"{cell:>24}" for cell in cells), flush=True)
        print(f"\ntraining, steps {WARM} to {LAST} of {BATCH} records")
        print(f"{'records':>9}{'processor':>24}{'memory':>24}")
        for size in SIZES:
            first, last = watch(folder / f"{size}.jsonl", folder, *kept, steps=(WARM, LAST))
            cost = 1000 * (last.cpu_seconds - first.cpu_seconds) / (BATCH * (LAST - WARM))
            print(f"{size:>9,}{f'{cost:.2f} ms a record':>24}{f'{last.memory_mib:,.0f} MiB':>24}", flush=True)


if __name__ == "__main__":
    main()
