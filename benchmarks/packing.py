"""What padding costs and packing saves: shares of padding on mixed lengths, training speed, and the cost of planning.

    python benchmarks/packing.py

Lengths are uniform from 50 to 2,000 tokens, with a fixed seed. Speed is of a small random language model on text alone,
forward and backward, in this machine's best precision; trust the ratio, not the figure.
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minicpmv.data.batches.grouping import BatchPlanner, LengthGrouper
from minicpmv.data.batches.row_planner import RowPlanner
from minicpmv.data.samples.collation import Collator, PackedCollator
from minicpmv.models.configuration import MiniCPMVConfig
from minicpmv.models.modeling import MiniCPMVForConditionalGeneration

FIXTURE = Path(__file__).parents[1] / "tests" / "fixtures" / "v2_6"


def uniform_lengths(number: int) -> list[int]:
    """Draw the tokens of each record."""
    return np.random.default_rng(0).integers(50, 2000, number, endpoint=True).tolist()


def padding(lengths: Sequence[int], batches: Iterable[Sequence[int]]) -> float:
    """Share of a padded batch that is padding."""
    used = sum(len(batch) * max(lengths[i] for i in batch) for batch in batches if batch)
    return 1 - sum(lengths) / used


def report_shares(number: int) -> None:
    """Print what part of each kind of batch holds no token."""
    lengths = uniform_lengths(number)
    order = np.random.default_rng(1).permutation(number).tolist()
    plain = [order[start : start + 4] for start in range(0, number, 4)]
    print(f"{number} records, {sum(lengths)} tokens")
    print(f"  plain batches of 4         {padding(lengths, plain):6.1%} padding")
    print(f"  batches of 4 by length     {padding(lengths, LengthGrouper(lengths, batch_size=4).rows(0)):6.1%} padding")
    for capacity in (2048, 4096, 8192):
        for num_ranks in (1, 4):
            planner = RowPlanner(lengths, capacity=capacity, num_ranks=num_ranks)
            assert planner.num_rows
            started = time.perf_counter()
            planner.rows(1)
            spent = time.perf_counter() - started
            processes = f"{num_ranks} process{'es' if num_ranks > 1 else '  '}"
            empty = 1 - planner.fill
            print(f"  rows of {capacity}, {processes}  {empty:6.1%} empty; an epoch planned in {spent:.2f} s")


def report_planning(number: int) -> None:
    """Print what planning the first epoch costs: seconds, and in a second go the peak of memory."""
    lengths = np.random.default_rng(0).integers(50, 2000, number, endpoint=True, dtype=np.int32)
    print(f"planning {number} records")
    makers: dict[str, Callable[[], RowPlanner | BatchPlanner]] = {
        "rows of 2048": lambda: RowPlanner(lengths, capacity=2048),
        "rows of 2048, 4 processes": lambda: RowPlanner(lengths, capacity=2048, num_ranks=4),
        "plain batches of 4": lambda: BatchPlanner(number, batch_size=4),
        "batches of 4 by length": lambda: LengthGrouper(lengths, batch_size=4),
    }
    for name, make in makers.items():
        started = time.perf_counter()
        make().rows(0)
        spent = time.perf_counter() - started
        tracemalloc.start()
        make().rows(0)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        print(f"  {name:26s} {spent:5.1f} s  {peak / 2**20:4.0f} MiB")


def make_items(lengths: Sequence[int], vocabulary: int) -> list[dict[str, Tensor]]:
    """Make text records whose second half is trained."""
    items: list[dict[str, Tensor]] = []
    for length in lengths:
        ids = torch.randint(vocabulary, (length,))
        labels = torch.where(torch.arange(length) < length // 2, -100, ids)
        items.append({"input_ids": ids, "labels": labels, "tgt_sizes": torch.zeros(0, 2, dtype=torch.int64)})
    return items


def make_model(device: str) -> MiniCPMVForConditionalGeneration:
    """Make a random model, larger on a GPU."""
    wide = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 8, "num_attention_heads": 16}
    narrow = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 4}
    sizes: dict[str, Any] = {**(wide if device == "cuda" else narrow), "num_key_value_heads": 4}
    config = MiniCPMVConfig.from_pretrained(FIXTURE, **sizes)
    model: Any = MiniCPMVForConditionalGeneration(config)
    return model.to(device, torch.bfloat16 if device == "cuda" else torch.float32).train()


def tokens_per_second(
    model: MiniCPMVForConditionalGeneration, batches: Sequence[dict[str, Tensor]], tokens: int
) -> float:
    """Time one pass, forward and backward, after one to warm up."""

    def once() -> None:
        for batch in batches:
            model(**{name: tensor.to(model.device) for name, tensor in batch.items()}).loss.backward()
        model.zero_grad()
        if model.device.type == "cuda":
            torch.cuda.synchronize()

    once()
    started = time.perf_counter()
    once()
    return tokens / (time.perf_counter() - started)


def report_speed(number: int) -> None:
    """Print how fast each kind of batch trains."""
    torch.manual_seed(0)
    model = make_model("cuda" if torch.cuda.is_available() else "cpu")
    lengths = uniform_lengths(number)
    items = make_items(lengths, model.config.text_config.vocab_size)
    plain = [[*range(start, min(start + 4, number))] for start in range(0, number, 4)]
    print(f"training on {number} of them, {model.device.type}, {str(model.dtype).removeprefix('torch.')}")
    for name, plan, collate in (
        ("plain batches of 4", plain, Collator(0)),
        ("batches of 4 by length", LengthGrouper(lengths, batch_size=4).rows(0), Collator(0)),
        ("rows of 4096", RowPlanner(lengths, capacity=4096).rows(0), PackedCollator(0)),
    ):
        batches = [collate([items[i] for i in batch]) for batch in plan]
        print(f"  {name:24s} {tokens_per_second(model, batches, sum(lengths)):10,.0f} tokens/s")


if __name__ == "__main__":
    report_shares(3_000)
    report_shares(100_000)
    report_planning(1_000_000)
    report_speed(400 if torch.cuda.is_available() else 16)
