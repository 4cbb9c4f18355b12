"""Training steps and answers at a released size, by the ways in which people train: seconds, memory, and where they go.

The row has about 4,096 tokens in eight samples, each with one image of five slices: 40 slices in all.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.gpu.batches import full_row
from benchmarks.gpu.building import build_trained, make_step, read_flags, write_files
from benchmarks.gpu.cases import Case, Finding, Setting
from benchmarks.gpu.tracing import count_waits, read_trace, record
from benchmarks.models import build_random
from benchmarks.peak import measure_peak
from minicpmv.models.answering.answers import generate_answers
from minicpmv.models.networks.flops import Work, flops_of_each, total_flops
from minicpmv.training.monitoring.throughput import count_work

__all__ = ["PATCHES", "Way", "cases", "describe_row", "make_row", "measure_steps"]

PATCHES = (32, 32)
"""Of every slice of a square image."""
_LORA = ("--use_lora", "true")
_RECOMPUTE, _KEEP = ("--activation_checkpointing", "true"), ("--activation_checkpointing", "false")
_STEPS = 5
_BESIDE_THE_BATCH = 2**20
"""Bytes that a step may copy to the GPU beside the batch's tensors: lengths and places."""


class Way(NamedTuple):
    """A way of training, by the flags that choose it beside half precision."""

    name: str
    flags: tuple[str, ...]


_WAYS = (
    Way("LoRA, half precision throughout, as under ZeRO-2", (*_LORA, *_RECOMPUTE, "--deepspeed", "zero2")),
    Way("LoRA, autocast", (*_LORA, *_RECOMPUTE)),
    Way("LoRA, autocast, nothing recomputed", (*_LORA, *_KEEP)),
    Way("full, autocast, Adafactor", (*_RECOMPUTE, "--optim", "adafactor")),
)


def cases(setting: Setting) -> list[Case]:
    """List the ways, and answering."""
    ways = [Case(way.name, lambda way=way: _train(setting, way)) for way in _WAYS]
    return [*ways, Case("answers", lambda: _answer(setting))]


def make_row(setting: Setting, model: Path) -> dict[str, Any]:
    """Make the row that all ways train on."""
    sizes = (256, 2, 1) if setting.is_small else (4096, 8, 5)
    tokens, samples, slices = sizes
    queries = 96 if setting.release == "2.5" else 64
    folder = setting.folder / "row"
    return full_row(model, folder, tokens=tokens, samples=samples, slices=slices, queries=queries)


def describe_row(batch: dict[str, Any]) -> Work:
    """Count what a row holds."""
    return count_work(batch["layout"])


def measure_steps(step: Callable[[], Any], setting: Setting) -> tuple[float, float]:
    """Return the seconds of the first step, and of one of the next, the median."""
    seconds = []
    for _ in range(1 + (2 if setting.is_small else _STEPS)):
        setting.wait()
        started = time.perf_counter()
        step()
        setting.wait()
        seconds.append(time.perf_counter() - started)
    return seconds[0], statistics.median(seconds[1:])


def _train(setting: Setting, way: Way) -> Iterator[Finding]:
    files = write_files(setting)
    flags = (setting.half, "true", *way.flags)
    subject = read_flags(setting, files, flags)
    batch = make_row(setting, files)
    if setting.is_cuda:
        torch.cuda.reset_peak_memory_stats()
    model = build_trained(subject, setting.device)
    step = make_step(model, subject, batch, setting)
    work = describe_row(batch)
    first, seconds = measure_steps(step, setting)
    flops = total_flops(flops_of_each(model.config, model.named_parameters(remove_duplicate=False)), work)
    # A CPU without bfloat16 instructions takes minutes for one product of the usual size.
    peak = measure_peak(seconds=0.1, side=256) if setting.is_small else measure_peak(seconds=1.0)
    found: Finding = {
        "flags": " ".join(flags),
        "tokens": work.tokens,
        "labelled": work.labelled_tokens,
        "slices": work.blocks,
        "patches": work.patches,
        "first_step_seconds": first,
        "step_seconds": seconds,
        "tokens_per_second": work.tokens / seconds,
        "tflops_per_second": flops / seconds / 1e12,
        "share_of_peak": flops / seconds / peak,
        "loss": step().item(),
    }
    yield found | _memory(setting)
    trace = (setting.traces or setting.folder) / f"{setting.release}-{way.name.replace(' ', '-')}.json.gz"
    record(step, setting, trace)
    spent = read_trace(trace)
    if "busy_seconds" in spent:
        spent = {"step_seconds": seconds, "idle_share": 1 - spent["busy_seconds"] / seconds, **spent}
    yield {**_judge(spent, batch, setting), **spent}
    if setting.is_cuda:
        yield {"host_waits_by_line": count_waits(step)}


def _judge(spent: Finding, batch: dict[str, Any], setting: Setting) -> Finding:
    """Say whether one kernel served all attention, and whether little but the batch was copied to the GPU."""
    if not setting.has_kernel:
        return {}
    others = [name for name in spent["attention"] if "_dot_product_" in name]
    copied = sum(each["bytes"] for name, each in spent["copies"].items() if "HtoD" in name)
    allowed = sum(each.nbytes for each in batch.values() if isinstance(each, torch.Tensor)) + _BESIDE_THE_BATCH
    return {
        "holds": not others and copied <= allowed,
        "expected": f"the variable-length kernel in all layers, and at most {allowed:,} bytes to the GPU",
    }


def _memory(setting: Setting) -> Finding:
    if not setting.is_cuda:
        return {}
    free, total = torch.cuda.mem_get_info()
    return {
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30,
        "peak_reserved_gib": torch.cuda.max_memory_reserved() / 2**30,
        # What the system sees taken beyond that: CUDA itself.
        "outside_torch_gib": (total - free - torch.cuda.memory_reserved()) / 2**30,
    }


def _answer(setting: Setting) -> Iterator[Finding]:
    """Answer many questions at once, and one alone, all by the likeliest token."""
    num_tokens = 4 if setting.is_small else 64
    dtype = torch.bfloat16 if setting.half == "--bf16" else torch.float16
    model = build_random(write_files(setting), dtype=dtype, device=setting.device).eval()
    for rows in (2, 1) if setting.is_small else (16, 1):
        ids = torch.randint(5, 200, (rows, 256), device=setting.device)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        seconds = []
        for number in (4, num_tokens):  # the first warms up
            options = {"do_sample": False, "min_new_tokens": number, "max_new_tokens": number}
            setting.wait()
            started = time.perf_counter()
            generate_answers(model, inputs, options=options, end_ids=[2])
            seconds.append(time.perf_counter() - started)
        yield {"rows": rows, "prompt_tokens": 256, "tokens_per_second": rows * num_tokens / seconds[-1]}
