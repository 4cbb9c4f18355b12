"""How fast a run is: what its batches held, by the clock, over all processes.

Batches are counted without waiting for the device; the numbers are fetched from it only where they are logged.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import torch
from torch import Tensor

from minicpmv.models.flops import Work, total_flops
from minicpmv.models.loss import IGNORED
from minicpmv.training.processes import add_up, num_processes

__all__ = ["Throughput", "count_work"]


class Throughput:
    """A clock beside a count of what was computed since it was last read.

    Args:
        flops_of_each: What the model at hand costs.
    """

    def __init__(self, flops_of_each: Work) -> None:
        self._flops_of_each = flops_of_each
        self._since: float | None = None
        self._records = 0
        self._work: Tensor | None = None

    @property
    def is_running(self) -> bool:
        return self._since is not None

    def start(self) -> None:
        """Let the clock run."""
        self._since = time.perf_counter()

    def count(self, batch: Mapping[str, Tensor], *, num_records: int) -> None:
        """Add a batch. One of no records, which a process computes to keep others company, is no work."""
        if num_records:
            self._records += num_records
            work = count_work(batch)
            self._work = work if self._work is None else self._work + work

    def leave_out(self, started: float) -> None:
        """Take what has passed since then, by ``time.perf_counter``, out of the time that counts."""
        if self._since is not None:
            self._since += time.perf_counter() - started

    def read(self, device: torch.device) -> dict[str, float]:
        """Tell the rates since the last time, and begin anew. All processes do so together.

        Args:
            device: Where processes exchange numbers.

        Returns:
            By the names of the log: tokens and samples of all processes together; operations of one on average, to be
            compared with its device's peak. Nothing if the clock never ran.
        """
        if self._since is None:
            return {}
        work = torch.zeros(len(Work()), dtype=torch.int64, device=device) if self._work is None else self._work
        records, *counts = add_up(torch.cat([work.new_tensor([self._records]), work])).tolist()
        now = time.perf_counter()
        seconds = max(now - self._since, 1e-9)
        self._since, self._records, self._work = now, 0, None
        done = Work(*counts)
        flops = total_flops(self._flops_of_each, done)
        return {
            "tokens_per_second": done.tokens / seconds,
            "samples_per_second": records / seconds,
            "tflops_per_second": flops / seconds / num_processes() / 1e12,
        }


def count_work(batch: Mapping[str, Tensor]) -> Tensor:
    """Count what a batch holds, as the collators make it: a ``Work`` as (8,) int64 on the batch's device."""
    labels, mask, positions = batch["labels"], batch.get("attention_mask"), batch.get("position_ids")
    zero = torch.zeros((), dtype=torch.int64, device=labels.device)
    if mask is None:  # packed, with positions from 0 in each sample: 1 + 3 + 5 + ... is the square of its length
        assert positions is not None, "a row that is not padded is packed"
        tokens = labels.numel()
        token_pairs = (2 * positions + 1).sum()
        labelled_tokens = (labels.ne(IGNORED) & positions.ne(0)).sum()
    else:
        tokens = mask.sum()
        token_pairs = mask.sum(dim=1).square().sum()
        labelled_tokens = labels[:, 1:].ne(IGNORED).sum()  # a token is predicted from the one before
    work = Work(tokens=tokens, token_pairs=token_pairs, labelled_tokens=labelled_tokens)  # pyright: ignore[reportArgumentType]
    if "tgt_sizes" in batch:
        patches = batch["tgt_sizes"].to(zero.device).prod(dim=1)
        known = batch.get("known_slices")
        unseen = patches if known is None else patches * ~known
        # A frozen resampler's tokens come along; a tower's features are still read.
        resampled = unseen if "image_features" in batch else patches
        work = work._replace(
            patches=unseen.sum(),  # pyright: ignore[reportArgumentType]
            patch_pairs=unseen.square().sum(),  # pyright: ignore[reportArgumentType]
            resampled_patches=resampled.sum(),  # pyright: ignore[reportArgumentType]
            blocks=resampled.ne(0).sum(),  # pyright: ignore[reportArgumentType]
            image_batches=resampled.any(),  # pyright: ignore[reportArgumentType]
        )
    return torch.stack([zero + number for number in work])
