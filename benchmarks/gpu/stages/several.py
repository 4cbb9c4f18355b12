"""Several GPUs learn what one does, whatever shards weights and optimizer; NCCL is what only this can show."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from benchmarks.gpu.batches import make_tiny_data
from benchmarks.gpu.cases import Case, Finding, LeftOut, Setting, run_python
from benchmarks.gpu.stages.commands import SECONDS, read_run, training_words

__all__ = ["cases"]

_ENGINES = {
    "DDP": [],
    "ZeRO-2": ["--deepspeed", "zero2"],
    "ZeRO-3": ["--deepspeed", "zero3"],
    "FSDP2": ["--fsdp", "true"],
}
# Two processes in float32 add up in another order. A loss averaged by process instead of by token is off by 0.1.
_NEAR = 1e-3
_COMMON = (
    "--bf16",
    "false",
    "--packing",
    "false",
    "--train_sampling_strategy",
    "sequential",
    "--verify_saved",
    "false",
)


def cases(setting: Setting) -> list[Case]:
    """List the engines; on a CPU DDP alone, with two processes.

    Raises:
        LeftOut: There is one GPU.
    """
    number = torch.cuda.device_count() if setting.is_cuda else 2
    if number < 2:
        raise LeftOut("there is one GPU, and it needs two")
    engines = ["DDP"] if setting.is_small else list(_ENGINES)
    return [Case(engine, lambda engine=engine: _compare(setting, engine, min(number, 8))) for engine in engines]


def _compare(setting: Setting, engine: str, number: int) -> Iterator[Finding]:
    data = make_tiny_data(setting.folder / "several-data", num_records=4 * number)
    alone = setting.folder / "several-alone"
    if not (alone / "run.json").exists():
        run_python(
            training_words(data, alone, *_COMMON, "--per_device_train_batch_size", str(number)),
            seconds=SECONDS,
            variables={"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]},
        )
    output = setting.folder / f"several-{engine}"
    started = time.perf_counter()
    launcher = [
        "-m",
        "minicpmv.training.launching.launcher",
        "--nproc_per_node",
        str(number),
        "--master_port",
        str(_free_port()),
    ]
    run_python([*launcher, *training_words(data, output, *_COMMON, *_ENGINES[engine])], seconds=2 * SECONDS)
    expected, found = _losses(alone), _losses(output)
    off = max(abs(one - other) / one for one, other in zip(expected, found, strict=True))
    yield {
        "holds": off <= _NEAR,
        "expected": f"losses within {_NEAR:g}",
        "processes": number,
        "largest_difference": off,
        "losses": found,
        "seconds": time.perf_counter() - started,
    }


def _losses(output: Path) -> Sequence[float]:
    return [entry["loss"] for entry in read_run(output)["log"] if "loss" in entry]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]
