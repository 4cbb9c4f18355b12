"""One training in a process of its own: its tree of processes watched from outside, its steps read from its events."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.peers.watch import PROFILE

__all__ = ["Figures", "RunFailed", "figures_of", "own_python", "run_watched", "variables_of"]

_ROOT = Path(__file__).parents[2]
_WATCH = Path(__file__).parent / "watch.py"
_SECONDS_BETWEEN_LOOKS = 0.2


class RunFailed(Exception):
    """A training ended with a fault; says its last lines."""


@dataclass(frozen=True)
class Figures:
    """What one training took. Rates are from the end of the first step on."""

    samples_per_second: float
    trained_tokens_per_second: float
    processor_seconds: float
    """Of a sample, in the whole tree of processes."""
    memory_gib: float | None
    """Largest sum over the processes, or on a CUDA device what torch had allocated there. None, as the next two, if the
    first step was profiled, which takes time and memory."""
    first_step_seconds: float | None
    """From the command to the end of its first step."""
    first_step_processor_seconds: float | None
    losses: list[float]
    """Of each step, before its update."""
    trained_tokens: list[int]
    """Of each step."""
    positions: list[int]
    """Of each step, with padding."""
    learning: int
    """Weights that learn."""
    dtypes: list[str]
    """Of those."""
    profile: dict[str, float]
    """Kind of operation -> seconds of the first step, if it was profiled."""


def run_watched(
    python: Path, words: Sequence[str], *, events: Path, variables: Mapping[str, str], records_of_a_step: int
) -> dict[str, Any]:
    """Run a training, and return its figures.

    Args:
        python: Of its environment.
        words: Its module and arguments.
        events: Gets what happens, a line each.
        variables: Of the environment, beside those of this process.
        records_of_a_step: How many each optimizer step sees.

    Raises:
        RunFailed: It did not end well, or took no steps.
    """
    log = events.with_suffix(".log")
    with log.open("w", encoding="utf-8") as output:
        process = psutil.Popen(
            [str(python), str(_WATCH), str(events), *words],
            env={**os.environ, **variables},
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=events.parent,
        )
        started = process.create_time()
        memory = _largest_memory(process)
    if process.returncode:
        raise RunFailed(f"{' '.join(words)}\nended with {process.returncode}; its last lines, of {log}:\n{_tail(log)}")
    lines = [json.loads(line) for line in events.read_text(encoding="utf-8").splitlines()]
    if sum(line["event"] == "step" for line in lines) < 2:
        raise RunFailed(f"{' '.join(words)}\ntook fewer than 2 steps; its last lines, of {log}:\n{_tail(log)}")
    return asdict(figures_of(lines, started=started, memory=memory, records_of_a_step=records_of_a_step))


def _largest_memory(process: psutil.Popen) -> int:
    """Wait until a process ends; return the largest sum of bytes that it and its descendants held at once."""
    ended = threading.Event()
    largest = 0

    def look() -> None:
        nonlocal largest
        while not ended.wait(_SECONDS_BETWEEN_LOOKS):
            total = 0
            try:
                for each in [process, *process.children(recursive=True)]:
                    total += _held(each)
            except psutil.NoSuchProcess:  # one ended between being listed and being read
                continue
            largest = max(largest, total)

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        process.wait()
    finally:
        ended.set()
        watcher.join()
        if process.is_running():
            process.kill()
    return largest


def _held(process: psutil.Process) -> int:
    """Return a process's bytes; on Linux what several share, as forked data workers do, is counted once."""
    if sys.platform == "linux":
        return process.memory_full_info().pss
    return process.memory_info().rss


def figures_of(lines: Sequence[dict[str, Any]], *, started: float, memory: int, records_of_a_step: int) -> Figures:
    """Compute figures from events.

    Args:
        lines: Of the file of events.
        started: When the command began, in seconds since 1970.
        memory: Bytes, from outside.
        records_of_a_step: How many each optimizer step sees.
    """
    steps = [line for line in lines if line["event"] == "step"]
    trained, positions = _by_step(lines, "trained"), _by_step(lines, "positions")
    first, last, timed = steps[0], steps[-1], len(steps) - 1
    end = next((line for line in lines if line["event"] == "end"), {})
    begin = next(line for line in lines if line["event"] == "begin")
    profiled = next((line["seconds"] for line in lines if line["event"] == "profile"), {})
    seconds = sum(end["device_seconds"]) if "device_seconds" in end else last["time"] - first["time"]
    return Figures(
        samples_per_second=timed * records_of_a_step / seconds,
        trained_tokens_per_second=sum(trained[1:]) / seconds,
        processor_seconds=(last["processor"] - first["processor"]) / (timed * records_of_a_step),
        memory_gib=None if profiled else end.get("device_memory", memory) / 2**30,
        first_step_seconds=None if profiled else first["time"] - started,
        first_step_processor_seconds=None if profiled else first["processor"],
        losses=[line["loss"] for line in lines if line["event"] == "loss"],
        trained_tokens=trained,
        positions=positions,
        learning=begin["learning"],
        dtypes=begin["dtypes"],
        profile=profiled,
    )


def _by_step(lines: Sequence[dict[str, Any]], name: str) -> list[int]:
    """Sum a count of micro-batches for each optimizer step."""
    sums, running = [], 0
    for line in lines:
        if line["event"] == "batch":
            running += line[name]
        elif line["event"] == "step":
            sums.append(running)
            running = 0
    return sums


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-25:])


def variables_of(cache: Path, device: str, *, is_ours: bool, is_profiled: bool) -> dict[str, str]:
    """Return what every training's environment says: one thread, nothing from outside, caches of its own.

    Args:
        cache: Folder for what libraries keep.
        device: ``cpu`` or ``cuda``.
        is_ours: Whether it is this package that trains, which then is imported from this checkout.
        is_profiled: Whether the first step is profiled.
    """
    return {
        **({PROFILE: "true"} if is_profiled else {}),
        "PYTHONPATH": str(_ROOT / "src") if is_ours else "",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(cache / "hf"),
        "MODELSCOPE_CACHE": str(cache / "modelscope"),
        "CUDA_VISIBLE_DEVICES": "" if device == "cpu" else os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0],
    }


def own_python() -> Path:
    """Return the Python that runs this package."""
    return Path(sys.executable)
