"""Whole training runs on the fixtures: data, flags, and the command line in a process of its own."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Container, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from minicpmv.training.flags.arguments import parse_arguments
from minicpmv.training.run import train
from tests.precision import precision_flags
from tests.run.prepared import own_interpreter_prepared
from tests.tiny import FIXTURES, conversation, save_picture, write_data

PLAIN = (
    "--gradient_accumulation_steps 1 --weight_decay 0 --adam_beta2 0.999 --measure 0 --activation_checkpointing false "
    "--save_total_limit 2"
)
"""Nothing that the recipe adds to a step; its other values are in ``flags``."""
_SIZES = ((56, 56), (90, 56), (150, 80))


def make_data(folder: Path, *, num_records: int = 8, text_only: Container[int] | None = None) -> str:
    """Write records of very different lengths: unsliced and sliced pictures, and text alone, every third by default."""
    records: list[dict[str, Any]] = []
    for index in range(num_records):
        answer = "word " * (1 + 3 * (index % 4))
        if index % 3 == 2 if text_only is None else index in text_only:
            records.append({"id": str(index), "conversations": conversation("Say it.", answer)})
            continue
        width, height = _SIZES[index % 3]
        save_picture(folder / f"{index}.png", width, height, seed=index)
        texts = conversation("<image>\nWhat's this?", answer)
        records.append({"id": str(index), "image": f"{index}.png", "conversations": texts})
    return write_data(folder / "train.json", records)


def flags(data: str, output: Path, *extra: str, model: str = "v2_6", steps: int = 4) -> list[str]:
    """Say what most runs here have in common: few steps of single records in a fixed order, and nothing beside them.

    None of what the recipe adds to that, such as accumulation. No TensorBoard, no report, nothing kept about data, and
    no proof of what was saved, which starts another process: tests of them switch them on. The precision is the one
    that pytest was asked for.
    """
    common = f"--max_steps {steps} --logging_steps 1 --learning_rate 1e-3 --warmup_steps 0 --report_to none"
    common += f" --data_cache false --verify_saved false --report false {PLAIN}"
    start = ["--model_name_or_path", str(FIXTURES / model), "--data_path", data, "--output_dir", str(output)]
    order = ["--train_sampling_strategy", "sequential", "--packing", "false"]
    return [*start, *order, *common.split(), *precision_flags(extra), *extra]


def settings_of(arguments: Sequence[str]) -> dict[str, Any]:
    """Return what flags say, but for model, data and output, as settings of ``minicpmv.train``."""
    values = parse_arguments(arguments).values
    own = ("model_name_or_path", "data_path", "output_dir")
    return {
        name: int(value) if isinstance(value, float) and value.is_integer() else value
        for name, value in values.items()
        if name not in own
    }


def run_here(arguments: Sequence[str]) -> dict[str, Any]:
    """Train in this process and return what run.json holds; the proof, where it is asked for, begins at once."""
    is_proved = ("--verify_saved", "true") in itertools.pairwise(arguments)
    with own_interpreter_prepared() if is_proved else nullcontext():
        train(arguments)
    return read_run(Path(arguments[arguments.index("--output_dir") + 1]))


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1"}


def read_run(output: Path) -> dict[str, Any]:
    return json.loads((output / "run.json").read_text(encoding="utf-8"))


def read_samples(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "samples.jsonl").read_text(encoding="utf-8").splitlines()]


def losses(run: dict[str, Any]) -> list[float]:
    return [entry["loss"] for entry in run["log"] if "loss" in entry]


def largest_difference(first: Path, second: Path) -> float:
    """Compare two safetensors files tensor by tensor; they must hold the same names."""
    ours, theirs = load_file(first), load_file(second)
    assert ours.keys() == theirs.keys()
    return max((ours[name].double() - theirs[name].double()).abs().max().item() for name in ours)


def same_bytes(first: Path, second: Path) -> bool:
    ours, theirs = load_file(first), load_file(second)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
