"""Measures a run's throughput over all processes: tokens, samples and operations per second.

Batches are counted by their layouts, which are on the host; processes sum up their counts only where they are logged.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import add
from typing import Any

import torch

from minicpmv.models.networks.flops import Work, total_flops
from minicpmv.models.networks.layout import Layout
from minicpmv.training.distributed.processes import add_up, num_processes

__all__ = ["Throughput", "count_work"]


class Throughput:
    """Counts the work done and the time passed since it was last read.

    Args:
        flops_of_each: Operations per unit of work for this model.
    """

    def __init__(self, flops_of_each: Work) -> None:
        self._flops_of_each = flops_of_each
        self._since: float | None = None
        self._is_paused = False
        self._records = 0
        self._work = Work()

    @property
    def is_running(self) -> bool:
        """Whether the clock was started."""
        return self._since is not None

    def start(self) -> None:
        """Start the clock."""
        self._since = time.perf_counter()

    def count(self, batch: Mapping[str, Any], *, num_records: int) -> None:
        """Add a batch. Padding batches (no records) do not count."""
        if num_records:
            self._records += num_records
            work = count_work(batch["layout"])
            self._work = Work(*map(add, self._work, work))

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude what happens inside from the measured time; a pause within another is part of it."""
        is_outermost, self._is_paused = not self._is_paused, True
        started = time.perf_counter()
        try:
            yield
        finally:
            if is_outermost:
                self._is_paused = False
                if self._since is not None:
                    self._since += time.perf_counter() - started

    def read(self, device: torch.device) -> dict[str, float]:
        """Return the rates since the last call, and reset the counts. Every process must call it.

        Args:
            device: Device on which processes exchange numbers.

        Returns:
            Rates by log key: tokens and samples of all processes together; operations per process on average, to
            compare with its device's peak. Empty if the clock never ran.
        """
        if self._since is None:
            return {}
        records, *counts = _add_up([self._records, *self._work], device)
        now = time.perf_counter()
        seconds = max(now - self._since, 1e-9)
        self._since, self._records, self._work = now, 0, Work()
        done = Work(*counts)
        flops = total_flops(self._flops_of_each, done)
        return {
            "tokens_per_second": done.tokens / seconds,
            "samples_per_second": records / seconds,
            "tflops_per_second": flops / seconds / num_processes() / 1e12,
        }


def _add_up(numbers: Sequence[int], device: torch.device) -> list[int]:
    return list(numbers) if num_processes() == 1 else add_up(torch.tensor(numbers, device=device)).tolist()


def count_work(layout: Layout) -> Work:
    """Count what a batch holds.

    Args:
        layout: As collators make it.
    """
    patches = [rows * columns for rows, columns in layout.sizes]
    known = layout.known or [False] * len(patches)
    unseen = [count for count, is_known in zip(patches, known, strict=True) if not is_known]
    resampled = patches if layout.known_tokens is None else unseen  # a tower's features are still read
    return Work(
        tokens=sum(layout.tokens_of_each),
        token_pairs=sum(length**2 for length in layout.tokens_of_each),
        labelled_tokens=0 if layout.label_places is None else len(layout.label_places),
        patches=sum(unseen),
        patch_pairs=sum(count**2 for count in unseen),
        resampled_patches=sum(resampled),
        blocks=len(resampled),
        image_batches=int(bool(resampled)),
    )
