"""Where a step's time goes: how long the device works, at what, and when the host waits for it."""

from __future__ import annotations

import gzip
import json
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.cases import Finding, Setting

__all__ = ["count_waits", "read_trace", "record"]

_ON_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
_NUM_TOP = 12
_WAITED = "synchronizing CUDA operation"
"""What torch's warning says."""


def record(step: Callable[[], Any], setting: Setting, path: Path) -> None:
    """Profile a step into a compressed file, in Chrome's format: chrome://tracing and ui.perfetto.dev show it."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if setting.is_cuda else [])]
    with profile(activities=activities) as recorded:
        step()
        setting.wait()
    recorded.export_chrome_trace(str(path))


def read_trace(path: Path) -> Finding:
    """Add a profile up.

    Returns:
        ``attention``: calls of operations of that kind, by name. If there was a GPU: ``busy_seconds`` in which it did
        anything; ``top``, its kernels by time, each with name, calls and seconds; ``copies`` by their kind, with
        number, bytes and the largest; ``waits`` of the host, by the function that waits, with number and seconds.
    """
    with gzip.open(path, "rt", encoding="utf-8") as file:
        events = [event for event in json.load(file)["traceEvents"] if event.get("ph") == "X"]
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        by_kind.setdefault(event.get("cat", ""), []).append(event)
    called = Counter(event["name"] for event in by_kind.get("cpu_op", []))
    found: Finding = {"attention": {name: number for name, number in called.items() if _is_attention(name)}}
    on_device = [event for kind in _ON_DEVICE for event in by_kind.get(kind, [])]
    if not on_device:
        return found
    calls = [*by_kind.get("cuda_runtime", []), *by_kind.get("cuda_driver", [])]
    return found | {
        "busy_seconds": _covered((event["ts"], event["ts"] + event["dur"]) for event in on_device) / 1e6,
        "top": _totals(by_kind.get("kernel", []))[:_NUM_TOP],
        "copies": _copies(by_kind.get("gpu_memcpy", [])),
        "waits": _totals([event for event in calls if "Synchronize" in event["name"]]),
    }


def count_waits(step: Callable[[], Any]) -> dict[str, int]:
    """Count where in a step the host waits for the GPU, by file and line; torch finds most of the places."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    places = (f"{Path(each.filename).name}:{each.lineno}" for each in caught if _WAITED in str(each.message))
    return dict(Counter(places).most_common())


def _is_attention(name: str) -> bool:
    return any(word in name for word in ("varlen", "_attention_forward", "_dot_product_")) and "backward" not in name


def _covered(spans: Iterable[tuple[float, float]]) -> float:
    """Add up the time in which at least one span is open: kernels of several streams overlap."""
    covered, until = 0.0, float("-inf")
    for start, end in sorted(spans):
        covered += max(end - max(start, until), 0.0)
        until = max(until, end)
    return covered


def _totals(events: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    """Return name, number and seconds of each kind, the longest first."""
    numbers, seconds = Counter[str](), Counter[str]()
    for event in events:
        numbers[event["name"]] += 1
        seconds[event["name"]] += event["dur"] / 1e6
    return [[name[:120], numbers[name], total] for name, total in seconds.most_common()]


def _copies(events: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for event in events:
        kind = found.setdefault(event["name"], {"number": 0, "bytes": 0, "largest": 0})
        size = int(event.get("args", {}).get("bytes", 0))
        kind["number"] += 1
        kind["bytes"] += size
        kind["largest"] = max(kind["largest"], size)
    return found
