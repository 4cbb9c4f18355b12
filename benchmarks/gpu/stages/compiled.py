"""Compiled layers: a step of LoRA as in ``real_size``, uncompiled and compiled in one process."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.gpu.building import build_trained, make_step, read_flags, write_files
from benchmarks.gpu.cases import Case, Finding, Setting
from benchmarks.gpu.stages.real_size import make_row, measure_steps
from minicpmv.training.learning.compilation import CompiledLayers

__all__ = ["cases"]

_FLAGS = ("--use_lora", "true", "--activation_checkpointing", "true")
_NEAR = 1e-2
"""Relative, of the loss: compiled layers round in other places."""


def cases(setting: Setting) -> list[Case]:
    """List the one comparison."""
    return [Case("LoRA, autocast", lambda: _measure(setting))]


def _measure(setting: Setting) -> Iterator[Finding]:
    files = write_files(setting)
    subject = read_flags(setting, files, [setting.half, "true", *_FLAGS])
    batch = make_row(setting, files)
    model = build_trained(subject, setting.device)
    step = make_step(model, subject, batch, setting)
    _, plain = measure_steps(step, setting)
    before = step().item()
    options = {"backend": "eager"} if setting.is_small else {}  # to try it needs no compiler
    CompiledLayers(options).on_train_begin(None, None, None, model=model)  # pyright: ignore[reportArgumentType]
    first, seconds = measure_steps(step, setting)
    after = step().item()
    yield {
        "holds": abs(after - before) <= _NEAR * abs(before),
        "expected": f"the loss within {_NEAR:g}",
        "step_seconds": plain,
        "compiled_step_seconds": seconds,
        "compiling_seconds": first - seconds,
        "times_as_fast": plain / seconds,
        "loss": before,
        "compiled_loss": after,
    }
