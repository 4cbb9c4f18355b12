"""Where the time of one training step goes: by kind of operation, beside what the matrix peak would take.

python -m benchmarks step
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch.profiler import profile

from benchmarks.models import make_model
from benchmarks.peak import measure_peak
from benchmarks.records import make_records
from minicpmv.data.samples.collation import PackedCollator
from minicpmv.data.samples.dataset import ConversationDataset
from minicpmv.data.sources.loading import load_records
from minicpmv.models.modeling import MiniCPMVForConditionalGeneration
from minicpmv.models.networks.flops import flops_of_each, total_flops
from minicpmv.processing.processor import MiniCPMVProcessor
from minicpmv.training.monitoring.throughput import count_work

__all__ = ["measure"]

_RECORDS = 5
_KINDS = {
    "matrix products": ("mm", "addmm", "bmm", "linear", "mkldnn"),
    "attention, forward": ("_scaled_dot_product_flash_attention_for_cpu",),
    "attention, backward": ("_scaled_dot_product_flash_attention_for_cpu_backward",),
    "copies and casts": ("copy_", "cat", "fill_", "zero_", "clone", "contiguous"),
}


def measure(*, repetitions: int) -> dict[str, Any]:
    """Profile forward and backward of a packed row in bfloat16; return each kind's share of the time."""
    with tempfile.TemporaryDirectory() as folder:
        path = make_model(Path(folder, "model"))
        data = make_records(Path(folder, "data"), _RECORDS, slices=(1, 3, 5, 9, 10))
        model: Any = MiniCPMVForConditionalGeneration.from_pretrained(path, dtype=torch.float32).train()
        dataset = ConversationDataset(load_records(data), MiniCPMVProcessor.from_pretrained(path), max_length=32768)
        batch = PackedCollator(0)([dataset[index] for index in range(_RECORDS)])
    work = count_work(batch["layout"])
    flops = total_flops(flops_of_each(model.config, model.named_parameters()), work)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(**batch).loss
        loss.backward()
        model.zero_grad()

    for _ in range(repetitions):
        step()
    with profile() as recorded:
        step()
    spent: dict[str, float] = {}
    for event in recorded.key_averages():
        name = event.key.removeprefix("aten::")
        kind = next((kind for kind, names in _KINDS.items() if name in names), "everything else")
        spent[kind] = spent.get(kind, 0.0) + event.self_cpu_time_total / 1e6
    total = sum(spent.values())
    ideal = flops / measure_peak()
    shares = {f"share: {kind}": seconds / total for kind, seconds in sorted(spent.items(), key=lambda each: -each[1])}
    return {"seconds": total, "seconds_at_peak": ideal, "share_of_peak": ideal / total, **shares}
