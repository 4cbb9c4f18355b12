"""DeepSpeed on one GPU: its CUDA side, NCCL with one process, and its Adam for processors, which is compiled once."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

from benchmarks.gpu.batches import make_tiny_data
from benchmarks.gpu.cases import Case, Finding, Setting, run_python
from benchmarks.gpu.stages.commands import SECONDS, read_run, training_words

__all__ = ["cases"]

_TO_COMPILE = 180.0
"""Seconds more, for the optimizer of the machine's processors."""


def cases(setting: Setting) -> list[Case]:
    """List the engines that one GPU can show."""
    return [Case(engine, lambda engine=engine: _train(setting, engine)) for engine in ("zero2", "zero2-offload")]


def _train(setting: Setting, engine: str) -> Iterator[Finding]:
    data = make_tiny_data(setting.folder / "deepspeed-data", num_records=8)
    output = setting.folder / f"deepspeed-{engine}"
    started = time.perf_counter()
    words = ["--use_lora", "true", setting.half, "true", "--deepspeed", engine]
    run_python(training_words(data, output, *words), seconds=SECONDS + _TO_COMPILE)
    losses = [entry["loss"] for entry in read_run(output)["log"] if "loss" in entry]
    seconds = time.perf_counter() - started
    yield {"holds": all(map(math.isfinite, losses)), "expected": "finite losses", "losses": losses, "seconds": seconds}
