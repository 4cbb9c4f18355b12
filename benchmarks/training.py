"""The training command beside the plain way: samples per second, useful FLOP/s beside the matrix peak, memory, start.

    python -m benchmarks training

All train the same checkpoint on the same records in bfloat16, each in its own process, in turns; the peak of matrix
products is measured before each round. The package trains as it does by default, and with compiled layers. The plain
way, ``benchmarks/plain.py``, takes four records to a batch; or one, which pads no rows; or one, with the tower's
attention as it is written in the released code. On a frozen tower the package trains an epoch that is not the first.
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
_METHODS = {"full": [], "lora": _LORA, "frozen-tower": [*_LORA, "--tune_vision", "false"]}
_OUR_WAYS = {"": [], "compiled_": ["--torch_compile", "true"]}
"""What its figures begin with -> flags."""
_ONE_RECORD = ["--batch-size", "1", "--accumulation", "4", "--records", "12"]
_PLAIN_WAYS = {
    "plain": ["--records", "16"],
    "one_record": _ONE_RECORD,
    "as_released": [*_ONE_RECORD, "--tower-attention", "eager"],
}


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
            f"--max_steps {steps} --logging_steps {steps // 2} --save_strategy no --verify_saved false --report false"
        )
        words = ["--model_name_or_path", str(model), "--data_path", data, "--output_dir", output, "--bf16", "true"]
        words += [*flags.split(), "--report_to", "none", "--pack_length", str(_ROW), "--model_max_length", str(_ROW)]
        words += ["--gradient_accumulation_steps", "1", "--activation_checkpointing", "false"]
        words += ["--dataloader_num_workers", "1", *_METHODS[method], *more]
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
    """Let all train in turns; return medians and ratios."""
    rounds: list[dict[str, float]] = []
    for number in range(1, repetitions + 1):
        with tempfile.TemporaryDirectory() as cache:
            more = ["--vision_cache", cache] if method == "frozen-tower" else []
            if more:
                run_command(model, data, method, *more)
            rounds.append(_round(method, model, data, *more))
        print(
            f"  {method} {number}: " + ", ".join(f"{name} {value:.3g}" for name, value in rounds[-1].items()),
            flush=True,
        )
    return {name: statistics.median(each[name] for each in rounds) for name in rounds[0]} | {"rounds": rounds}


def _round(method: str, model: Path, data: str, *more: str) -> dict[str, float]:
    peak = measure_peak() / 1e12
    ours = {way: run_command(model, data, method, *more, *flags) for way, flags in _OUR_WAYS.items()}
    figures = {"peak_tflops": peak}
    for way, run in ours.items():
        figures |= {
            f"{way}samples_per_second": run.samples_per_second,
            f"{way}share_of_peak": run.tflops_per_second / peak,
            f"{way}memory_gib": run.memory_gib,
            f"{way}start_seconds": run.start_seconds,
        }
    per_sample = ours[""].tflops_per_second / ours[""].samples_per_second
    for name, flags in _PLAIN_WAYS.items():
        plain = run_plain(model, data, method, *flags)
        figures |= {
            f"{name}_samples_per_second": plain["samples_per_second"],
            f"{name}_share_of_peak": per_sample * plain["samples_per_second"] / peak,
            f"{name}_memory_gib": plain["memory_gib"],
        }
        figures |= {
            f"{way}times_faster_than_{name}": run.samples_per_second / plain["samples_per_second"]
            for way, run in ours.items()
        }
    return figures


def measure(*, repetitions: int) -> dict[str, Any]:
    """Compare full training, LoRA, and LoRA on a frozen tower; return the figures by method."""
    with tempfile.TemporaryDirectory() as folder:
        model = make_model(Path(folder, "model"))
        data = make_records(Path(folder, "data"), _RECORDS)
        return {method: compare(method, model, data, repetitions=repetitions) for method in _METHODS}
