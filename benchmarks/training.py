"""The training command beside the plain way: samples per second, useful FLOP/s beside the matrix peak, memory, start.

    python -m benchmarks training

Both train the same checkpoint on the same records in bfloat16, each in its own process, in turns; the peak of matrix
products is measured before each. The plain way is ``benchmarks/plain.py``.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.models import make_model
from benchmarks.peak import measure_peak
from benchmarks.records import make_records

__all__ = ["Figures", "compare", "run_command", "run_plain"]

_RECORDS = 21
"""Of an epoch: three with each number of slices."""
_ROW = 4096
"""Tokens of a packed row: about five records."""
_LORA = ["--use_lora", "true", "--lora_r", "64"]


@dataclass(frozen=True)
class Figures:
    """Of one training."""

    samples_per_second: float
    tflops_per_second: float
    """Useful ones; for the plain way those of the same samples."""
    memory_gib: float
    """Largest so far in the process."""
    start_seconds: float
    """From the command to the end of its first step."""


def run_command(model: Path, data: str, method: str, *more: str, steps: int = 8) -> Figures:
    """Train with the package, and read its own figures; the first half of the steps warms up."""
    with tempfile.TemporaryDirectory() as output:
        flags = (
            f"--max_steps {steps} --logging_steps {steps // 2} --save_strategy no --prove_saved false --report_to none"
        )
        words = ["--model_name_or_path", str(model), "--data_path", data, "--output_dir", output, "--bf16", "true"]
        words += [*flags.split(), "--pack_length", str(_ROW), "--model_max_length", str(_ROW)]
        words += ["--dataloader_num_workers", "1", *(_LORA if method == "lora" else []), *more]
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "minicpmv.training", *words], check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - started
        run: dict[str, Any] = json.loads(Path(output, "run.json").read_text(encoding="utf-8"))
    last = [entry for entry in run["log"] if "samples_per_second" in entry][-1]
    trained = run["metrics"]["train_runtime"]
    return Figures(last["samples_per_second"], last["tflops_per_second"], last["memory_gib"], seconds - trained)


def run_plain(model: Path, data: str, method: str, *more: str) -> dict[str, float]:
    """Train in the plain way, in a process of its own."""
    words = [sys.executable, "-m", "benchmarks.plain", str(model), data, "--method", method, *more]
    done = subprocess.run(words, check=True, capture_output=True, text=True, env=os.environ | _here())
    return json.loads(done.stdout.splitlines()[-1])


def _here() -> dict[str, str]:
    return {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])}


def compare(method: str, model: Path, data: str, *, repetitions: int) -> dict[str, Any]:
    """Let both train in turns; return medians and ratios."""
    rounds: list[dict[str, float]] = []
    for number in range(1, repetitions + 1):
        peak = measure_peak() / 1e12
        ours, plain = run_command(model, data, method), run_plain(model, data, method)
        per_sample = ours.tflops_per_second / ours.samples_per_second
        rounds.append(
            {
                "peak_tflops": peak,
                "samples_per_second": ours.samples_per_second,
                "plain_samples_per_second": plain["samples_per_second"],
                "times_faster": ours.samples_per_second / plain["samples_per_second"],
                "share_of_peak": ours.tflops_per_second / peak,
                "plain_share_of_peak": per_sample * plain["samples_per_second"] / peak,
                "memory_gib": ours.memory_gib,
                "plain_memory_gib": plain["memory_gib"],
                "memory_ratio": ours.memory_gib / plain["memory_gib"],
                "start_seconds": ours.start_seconds,
            }
        )
        print(
            f"  {method} {number}: " + ", ".join(f"{name} {value:.3g}" for name, value in rounds[-1].items()),
            flush=True,
        )
    return {name: statistics.median(each[name] for each in rounds) for name in rounds[0]} | {"rounds": rounds}


def measure(*, repetitions: int) -> dict[str, Any]:
    """Compare full and LoRA training; return the figures by method."""
    with tempfile.TemporaryDirectory() as folder:
        model = make_model(Path(folder, "model"))
        data = make_records(Path(folder, "data"), _RECORDS)
        return {method: compare(method, model, data, repetitions=repetitions) for method in ("full", "lora")}
