"""A step of LoRA compared with one of full training on the same packed row, in one process, in turns.

    OMP_NUM_THREADS=1 python -m benchmarks lora

Both train as the scripts do: LoRA of rank 64 with dropout 0.05 on the attention of the language model, with vision
tower, resampler and embeddings in full. Also measured is LoRA without dropout.
A step is forward, backward, clipping and AdamW, in bfloat16 where the processor has units for it, else in float32.
Times are of the processor, since the machine may have other work to do. The model has fewer layers than that of the
other cases, because the models of all ways are in memory together.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from benchmarks.models import make_model
from benchmarks.records import make_records
from minicpmv.data.samples.collation import PackedCollator
from minicpmv.data.samples.dataset import ConversationDataset
from minicpmv.data.sources.loading import load_records
from minicpmv.models.attention.products import PRODUCTS_ARE_FASTER
from minicpmv.models.modeling import MiniCPMVForConditionalGeneration
from minicpmv.models.networks.flops import flops_of_each, total_flops
from minicpmv.processing.processor import MiniCPMVProcessor
from minicpmv.training.flags.declarations import RunArguments
from minicpmv.training.launching.cpu_process import keep_freed_memory
from minicpmv.training.learning.lora import add_lora
from minicpmv.training.learning.parts import choose_trained_parts
from minicpmv.training.learning.switches import resolve_learning
from minicpmv.training.monitoring.throughput import count_work

__all__ = ["measure"]

_SLICES = (1, 3)
_LAYERS, _TOWER_LAYERS = 3, 2
_WORDS = (100, 170)
_WAYS: dict[str, dict[str, Any]] = {
    "full": {},
    "lora": {"use_lora": True},
    "lora without dropout": {"use_lora": True, "lora_dropout": 0.0},
}


def measure(*, repetitions: int) -> dict[str, Any]:
    """Return processor seconds of each way, and what they are of full training's: measured and by arithmetic."""
    keep_freed_memory()
    half = torch.bfloat16 if PRODUCTS_ARE_FASTER else None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_model(folder / "model", num_hidden_layers=_LAYERS, vision={"num_hidden_layers": _TOWER_LAYERS})
        data = make_records(folder / "data", len(_SLICES), slices=_SLICES, words=_WORDS)
        dataset = ConversationDataset(
            load_records(data), MiniCPMVProcessor.from_pretrained(folder / "model"), max_length=8192
        )
        batch = PackedCollator(0)([dataset[place] for place in range(len(_SLICES))])
        models = {way: _build(folder / "model", settings, half) for way, settings in _WAYS.items()}
    steps = {way: _stepper(model, batch, half) for way, model in models.items()}
    for step in steps.values():
        step()
    rounds = [{way: step() for way, step in steps.items()} for _ in range(repetitions)]
    work = count_work(batch["layout"])
    flops = {
        way: total_flops(flops_of_each(model.config, model.named_parameters(remove_duplicate=False)), work)
        for way, model in models.items()
    }
    figures: dict[str, Any] = {
        "tokens": float(batch["input_ids"].numel()),
        "patches": float(len(batch["pixel_values"])),
    }
    for way in _WAYS:
        ratios = sorted(each[way] / each["full"] for each in rounds)
        figures[way] = {
            "seconds": statistics.median(each[way] for each in rounds),
            "of_full": statistics.median(ratios),
            "of_full_least": ratios[0],
            "of_full_most": ratios[-1],
            "of_full_by_arithmetic": flops[way] / flops["full"],
        }
    return figures | {"rounds": rounds}


def _build(directory: Path, settings: dict[str, Any], half: torch.dtype | None) -> Any:
    dtype = half if half and settings else torch.float32  # as a run loads them
    model: Any = MiniCPMVForConditionalGeneration.from_pretrained(directory, dtype=dtype)
    run, _ = resolve_learning(RunArguments(**settings), model, given=settings.keys())
    torch.manual_seed(0)
    if run.use_lora:
        model = add_lora(model, run, keep_dtype=False)
    else:
        choose_trained_parts(model, run)
    return model.train()


def _stepper(model: Any, batch: dict[str, Any], half: torch.dtype | None) -> Callable[[], float]:
    learning = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=1e-6, fused=True)

    def step() -> float:
        """Return the processor seconds that it took."""
        started = time.process_time()
        with torch.autocast("cpu", half) if half else nullcontext():
            loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return time.process_time() - started

    return step
