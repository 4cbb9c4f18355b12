"""What this machine's matrix products reach, for comparison: in the same minute and the same process tree."""

from __future__ import annotations

import time

import torch

__all__ = ["measure_peak"]


# Products of 2,048 take a large GPU 22 microseconds each, of which launching is a third.
_SIDES = {"cpu": 2048, "cuda": 8192}
"""Device -> rows and columns of a product that keeps it busy, and that it ends within milliseconds."""


def measure_peak(*, seconds: float = 3.0, side: int | None = None, dtype: torch.dtype = torch.bfloat16) -> float:
    """Return the best FLOP/s of a square matrix product on the accelerator, or on all of torch's threads.

    Args:
        seconds: How long to try.
        side: Rows and columns, if not those that suit the device.
        dtype: Of both factors and the result.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    side = side or _SIDES[device]
    first, second = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    once = 1 if device == "cpu" else 10
    best, until = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < until:
        _wait()
        started = time.perf_counter()
        for _ in range(once):
            torch.mm(first, second)
        _wait()
        best = min(best, (time.perf_counter() - started) / once)
    return 2 * side**3 / best


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
