"""Models as training has them, of random weights on the device, and their steps: forward, backward, optimizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.optimization import Adafactor

from benchmarks.gpu.batches import pin, send
from benchmarks.gpu.cases import Setting
from benchmarks.models import build_random, write_small_files
from minicpmv.devices.inspection import inspect_machine
from minicpmv.estimation.subject import read_subject
from minicpmv.training.learning.lora import add_lora
from minicpmv.training.learning.parts import choose_trained_parts
from minicpmv.training.learning.recomputation import RecomputedLayers, asked_of_parts
from minicpmv.training.start.footprint.subject import Subject
from tests.released_sizes import RELEASED

__all__ = ["build_trained", "make_step", "read_flags", "write_files"]

_FIXTURES = {"2.0": "v2", "2.5": "v2_5", "2.6": "v2_6", "4.5": "v4_5"}
# Heads as wide as the released ones, so that the same kernels are called.
_SMALL_TOWER = {"hidden_size": 144, "intermediate_size": 256, "num_attention_heads": 2, "num_hidden_layers": 2}
_SMALL = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 1024,
}


def write_files(setting: Setting) -> Path:
    """Write what says how large the model is, and how it reads; return the directory."""
    directory = setting.folder / "model"
    sizes = RELEASED[setting.release]
    if setting.is_small:
        tower = {"vision_config": {**sizes["vision_config"], **_SMALL_TOWER}} if "vision_config" in sizes else {}
        sizes = {**sizes, **_SMALL, **tower}
    write_small_files(directory, _FIXTURES[setting.release], sizes)
    return directory


def read_flags(setting: Setting, model: Path, flags: Sequence[str]) -> Subject:
    """Settle a run's flags as a run does."""
    places = ["--model_name_or_path", str(model), "--data_path", "none", "--output_dir", "none"]
    places += ["--gradient_accumulation_steps", "1"]
    return read_subject([*places, *flags], machine=inspect_machine(), num_devices=1)


def build_trained(subject: Subject, device: torch.device) -> Any:
    """Build the model of a run as it is when its first step begins."""
    model = build_random(subject.base.path, dtype=subject.base_dtype, device=device)
    if subject.run.use_lora:
        model = add_lora(model, subject.run, keep_dtype=bool(subject.settings.get("deepspeed")))
        model.enable_input_require_grads()
    else:
        choose_trained_parts(model, subject.run)
    recomputed = RecomputedLayers(asked=asked_of_parts(subject.run))
    if any(recomputed.asked.values()):
        # transformers 5.20, the last for Python 3.10, has the old name only.
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
        recomputed.on_train_begin(None, None, None, model=model)  # pyright: ignore[reportArgumentType]
    return model.train()


def make_step(model: Any, subject: Subject, batch: dict[str, Any], setting: Setting) -> Callable[[], Tensor]:
    """Return a step of training on this batch, which lies on the host; it returns the loss, without waiting for it.

    The optimizer works at a rate of 0: each step finds the same weights, so its loss can be compared.
    """
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if subject.settings.get("optim") == "adafactor":  # with what transformers' Trainer gives it
        optimizer: Any = Adafactor(learning, lr=0.0, scale_parameter=False, relative_step=False)
    else:
        optimizer = torch.optim.AdamW(learning, lr=0.0, fused=True)
    held = pin(batch) if setting.is_cuda else batch
    half = None if subject.settings.get("deepspeed") else subject.half

    def step() -> Tensor:
        given = send(held, setting.device)
        with torch.autocast(setting.device.type, dtype=half) if half else nullcontext():
            loss = model(**given).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return step
