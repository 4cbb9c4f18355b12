"""Trains one run by the training command's code, in this process, and returns what it gave.

Records are prepared once and remembered, over epochs and runs: for so small a model reading and tokenizing are half of
the work, and what is read is the same each time.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from safetensors import safe_open
from torch import Tensor

from minicpmv.data.samples.dataset import ConversationDataset
from minicpmv.training.run import train

__all__ = ["Case", "remembering", "run_case"]

_FIXED = (
    "--lr_scheduler_type cosine --warmup_steps 0.01 --weight_decay 0.1 --adam_beta2 0.95 --packing false --bf16 false "
    "--per_device_train_batch_size 16 --per_device_eval_batch_size 64 --eval_samples 0 --save_strategy no "
    "--report false --report_to none --verify_saved false --dataloader_num_workers 0 --overwrite_output_dir true "
    "--logging_steps 1000 --gradient_accumulation_steps 1 --activation_checkpointing false --measure 0"
)
"""The recipe of the demo's scripts, and nothing that takes time and changes no result."""
_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One run: what it trains on, how, and for how long."""

    table: str
    """Table that it belongs to."""
    row: str
    """Its name there."""
    data: str
    """Training data: a key of ``Sources.files``."""
    heldout: str
    flags: Mapping[str, str | int | float]
    metrics: str = "exact_match"
    seed: int = 42

    @property
    def words(self) -> list[str]:
        """The flags as a command line has them."""
        named = {**self.flags, "seed": self.seed}
        return [word for name, value in named.items() for word in (f"--{name}", str(value))]

    @property
    def key(self) -> str:
        """What the result depends on; two rows with one key are one run."""
        return " ".join([self.data, self.heldout, self.metrics, *self.words])


@contextlib.contextmanager
def remembering() -> Iterator[None]:
    """Let data sets return a record that they have prepared before, known by its id."""
    prepare = ConversationDataset.__getitem__
    prepared: dict[Any, dict[str, Tensor]] = {}

    def find(dataset: ConversationDataset, index: int) -> dict[str, Tensor]:
        name = dataset.records[index].id
        if name not in prepared:
            prepared[name] = prepare(dataset, index)
        return prepared[name]

    with patch.object(ConversationDataset, "__getitem__", find):
        yield


def run_case(case: Case, *, model: Path, files: Mapping[str, Path], output: Path) -> dict[str, Any]:
    """Train and measure; return the metrics, the steps, the seconds, and how far the weights moved.

    Args:
        case: The run.
        model: The base.
        files: Data files by the names that cases use.
        output: Directory of the run, which is replaced.
    """
    shutil.rmtree(output, ignore_errors=True)
    words = ["--model", str(model), "--data", str(files[case.data]), "--output", str(output), *_FIXED.split()]
    # One evaluation, behind the last step.
    words += ["--eval_data", str(files[case.heldout]), "--eval_metrics", case.metrics, "--eval_steps", "100000"]
    started = time.process_time()
    train([*words, *case.words])
    seconds = time.process_time() - started
    written = json.loads((output / "run.json").read_text(encoding="utf-8"))
    last = written["log"][-1]
    return {
        **{name: written["metrics"][f"eval_{name}"] for name in case.metrics.split(",")},
        "steps": last["step"],
        "epochs": last["epoch"],
        "processor_seconds": round(seconds, 1),
        "moved": _moved(model, output),
    }


def _moved(base: Path, output: Path) -> float:
    """Return the size of the change of the language model's attention, relative to its weights: the median matrix."""
    shares: list[float] = []
    adapter = output / "adapter_model.safetensors"
    with safe_open(base / "model.safetensors", "pt") as before, safe_open(_weights(output), "pt") as after:
        names = [name for name in before.keys() if name.startswith("llm.") and _is_attention(name)]  # noqa: SIM118
        for name in names:
            weight = before.get_tensor(name).float()
            if adapter.is_file():
                module = f"base_model.model.{name.removesuffix('.weight')}"
                first, second = (after.get_tensor(f"{module}.lora_{matrix}.weight") for matrix in "AB")
                change = _scale(output) * second.float() @ first.float()
            else:
                change = after.get_tensor(name).float() - weight
            shares.append(float(torch.linalg.matrix_norm(change) / torch.linalg.matrix_norm(weight)))
    return statistics.median(shares)


def _weights(output: Path) -> Path:
    (file,) = output.glob("*model.safetensors")
    return file


def _is_attention(name: str) -> bool:
    return name.endswith(".weight") and name.split(".")[-2] in _ATTENTION


def _scale(output: Path) -> float:
    config = json.loads((output / "adapter_config.json").read_text(encoding="utf-8"))
    return config["lora_alpha"] / config["r"]
