"""What each gain of a training step is worth: the step as it is, with one gain switched off, or one option on.

    python -m benchmarks gains

Forward and backward pass of the same five records in bfloat16, each way in its own process, in turns.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from benchmarks.models import make_model
from benchmarks.records import make_records
from minicpmv.data.samples.collation import Collator, PackedCollator
from minicpmv.data.samples.dataset import ConversationDataset
from minicpmv.data.sources.loading import load_records
from minicpmv.models.attention.varlen import without_products
from minicpmv.models.modeling import MiniCPMVForConditionalGeneration
from minicpmv.processing.processor import MiniCPMVProcessor
from minicpmv.training.launching.cpu_process import keep_freed_memory
from minicpmv.training.learning.compilation import CompiledLayers

__all__ = ["measure", "run_step"]

_GAINS = ("packed rows", "attention by products", "freed memory kept")
_COMPILED, _SPINNING = "layers compiled", "threads wait by spinning"
_OPTIONS = (_COMPILED, _SPINNING)
"""By a flag or a variable of the command, not by default."""
_RECORDS = 5
_STEPS = 3


def run_step(folder: Path, way: str | None) -> dict[str, float]:
    """Return the seconds of a step, the shortest of a few, and the peak of memory in GiB, in this process.

    Args:
        folder: With ``model`` and ``data``.
        way: The gain that is switched off, or the option that is switched on.
    """
    if way != "freed memory kept":
        keep_freed_memory()
    model: Any = MiniCPMVForConditionalGeneration.from_pretrained(folder / "model", dtype=torch.float32).train()
    processor = MiniCPMVProcessor.from_pretrained(folder / "model")
    dataset = ConversationDataset(load_records(str(folder / "data" / "train.jsonl")), processor, max_length=32768)
    collate = Collator(0) if way == "packed rows" else PackedCollator(0)
    if way == _COMPILED:
        CompiledLayers({}).on_train_begin(None, None, None, model=model)  # pyright: ignore[reportArgumentType]  unread
    batch = collate([dataset[index] for index in range(_RECORDS)])
    seconds = []
    with without_products() if way == "attention by products" else nullcontext():
        for _ in range(1 + _STEPS):
            started = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16):
                loss = model(**batch).loss
            loss.backward()
            model.zero_grad()
            seconds.append(time.perf_counter() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"seconds": min(seconds[1:]), "memory_gib": peak}


def measure(*, repetitions: int) -> dict[str, Any]:
    """Return how many times faster each gain makes the step, and its memory beside that without; medians."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_model(folder / "model")
        make_records(folder / "data", _RECORDS, slices=(1, 3, 5, 9, 10))
        rounds = [
            {way: _in_its_own_process(folder, way) for way in (None, *_GAINS, *_OPTIONS)} for _ in range(repetitions)
        ]
    figures: dict[str, Any] = {"seconds": statistics.median(each[None]["seconds"] for each in rounds)}
    for gain in (*_GAINS, *_OPTIONS):
        with_it, without = (gain, None) if gain in _OPTIONS else (None, gain)
        times = [each[without]["seconds"] / each[with_it]["seconds"] for each in rounds]
        memory = [each[with_it]["memory_gib"] / each[without]["memory_gib"] for each in rounds]
        figures[gain] = {"times_faster": statistics.median(times), "memory_ratio": statistics.median(memory)}
    return figures


def _in_its_own_process(folder: Path, way: str | None) -> dict[str, float]:
    words = [sys.executable, "-m", "benchmarks.gains", str(folder), *([way] if way else [])]
    policy = "ACTIVE" if way == _SPINNING else "PASSIVE"
    done = subprocess.run(
        words, check=True, capture_output=True, text=True, env=os.environ | {"OMP_WAIT_POLICY": policy}
    )
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    print(json.dumps(run_step(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None)))
