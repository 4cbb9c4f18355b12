"""What the machine is, as far as anything here depends on it, and what its products and copies reach."""

from __future__ import annotations

import importlib
import inspect
import time
from collections.abc import Iterator
from dataclasses import asdict

import torch

from benchmarks.gpu.cases import Case, Finding, Setting
from benchmarks.peak import measure_peak
from minicpmv.devices.inspection import inspect_machine, look_at
from minicpmv.machine.kernels import attention_kernel

__all__ = ["cases"]


def cases(setting: Setting) -> list[Case]:
    """List what is looked at."""
    return [
        Case("machine", lambda: _machine(setting)),
        Case("matrix products", lambda: _products(setting)),
        Case("copies to the device", lambda: _copies(setting)),
    ]


def _machine(setting: Setting) -> Iterator[Finding]:
    found: Finding = {"machine": asdict(inspect_machine()), "precision": setting.half}
    if setting.is_cuda:
        found["attention"] = attention_kernel(look_at(setting.device)).reason
    try:
        kernel = importlib.import_module("torch.nn.attention.varlen").varlen_attn
        found["varlen_attn"] = list(inspect.signature(kernel).parameters)[
            7:
        ]  # options, which differ by torch's version
    except ImportError:
        found["varlen_attn"] = "none"
    yield found


def _products(setting: Setting) -> Iterator[Finding]:
    side, seconds = (256, 0.1) if setting.is_small else (None, 2.0)
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        yield {"dtype": str(dtype), "tflops": measure_peak(seconds=seconds, side=side, dtype=dtype) / 1e12}


def _copies(setting: Setting) -> Iterator[Finding]:
    """Copy as much as a row of 40 slices has of pixels in bytes, from pageable and from pinned memory."""
    num_bytes = 2**20 if setting.is_small else 24 * 2**20
    for kind in ("pageable", "pinned") if setting.is_cuda else ("pageable",):
        source = torch.zeros(num_bytes, dtype=torch.uint8, pin_memory=kind == "pinned")
        best = float("inf")
        for _ in range(10):
            setting.wait()
            started = time.perf_counter()
            copy = torch.empty_like(source, device=setting.device).copy_(source, non_blocking=True)
            setting.wait()
            best = min(best, time.perf_counter() - started)
            del copy
        yield {"memory": kind, "gb_per_second": num_bytes / best / 1e9}
