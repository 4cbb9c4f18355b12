"""The peak memory of whole training runs on this CPU, compared with what ``minicpmv estimate`` says of the same.

    python -m benchmarks memory

Each case is a process of its own that runs the training command's own function: it reads records, loads a checkpoint
of 200 to 300 million weights, and takes two optimizer steps with all that belongs to them. Measured is the highest
resident memory during the steps less that before the model was loaded, so that the interpreter and its libraries are
left out; the peak of the whole process is shown as well. One thread, and a C library that returns large blocks when
they are freed, as the estimate assumes; ``minicpmv train`` keeps them on a CPU, for speed. In float32, since processors
without bfloat16 take minutes for it. No wall times play a part.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from benchmarks.models import FIXTURES, make_model
from benchmarks.records import make_records
from minicpmv.estimation.answer import Question, answer
from minicpmv.models.configuration import read_model_config
from minicpmv.models.skeleton import model_class
from minicpmv.training import run
from minicpmv.training.start import learner

__all__ = ["CASES", "Case", "measure"]

_LORA = ("--use_lora", "true")
_RECOMPUTED = ("--activation_checkpointing", "true")
_RELEASED = ("--release_gradients", "true")


class Case(NamedTuple):
    """One line of the table."""

    kind: str
    """The release whose layout the model has."""
    flags: tuple[str, ...]


CASES = {
    "LoRA": Case("2.6", _LORA),
    "full": Case("2.6", ()),
    "full, recomputed": Case("2.6", _RECOMPUTED),
    "full, gradients released": Case("2.6", _RELEASED),
    "full, both, rows of 1,024 tokens": Case("2.6", (*_RECOMPUTED, *_RELEASED, "--pack_length", "1024")),
    "full, both, adafactor": Case("2.6", (*_RECOMPUTED, *_RELEASED, "--optim", "adafactor")),
    "4.6, LoRA": Case("4.6", _LORA),
    "4.6, full": Case("4.6", ()),
    "4.7, full, recomputed": Case("4.7", _RECOMPUTED),
}


class _Kind(NamedTuple):
    """A model and its data."""

    fixture: str
    slices: tuple[int, ...]
    """Of pictures."""
    length: int
    """Tokens of a row. The reference recurrence of 4.6 and later is slow on a CPU."""


_KINDS = {
    "2.6": _Kind("v2_6", (1,), 512),
    "4.6": _Kind("v4_6", (1,), 256),
    "4.7": _Kind("v4_7", (1,), 256),
}
_TOWER = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 6, "num_attention_heads": 8}
_LANGUAGE = {"hidden_size": 1024, "vocab_size": 32000}
_LANGUAGE_2_6 = {"num_hidden_layers": 8, "intermediate_size": 4096, "num_attention_heads": 16, "num_key_value_heads": 4}
_LANGUAGE_4_6 = {
    "num_hidden_layers": 12,
    "layer_types": [*["linear_attention"] * 3, "full_attention"] * 3,
    "intermediate_size": 3584,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10000000,
        "partial_rotary_factor": 0.5,
        "mrope_section": [11, 11, 10],
        "mrope_interleaved": True,
    },
    "linear_key_head_dim": 64,
    "linear_value_head_dim": 64,
    "linear_num_key_heads": 8,
    "linear_num_value_heads": 16,
}


def measure(*, repetitions: int) -> dict[str, Any]:
    """Run every case and compare; only the first of several rounds is run, as others would give the same."""
    del repetitions
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, case in CASES.items():
            model = Path(folder, case.kind)
            if not model.exists():
                _write(case.kind, model)
            found[name] = _start(name, model)
            print(f"  {name}: {_describe(found[name])}", flush=True)
    return found


def _describe(found: Mapping[str, float]) -> str:
    predicted, measured, whole = (found[f"{name}_mib"] for name in ("predicted", "measured", "process"))
    return (
        f"{found['millions']:.0f} M weights, predicted {predicted:,.0f} MiB, measured {measured:,.0f} "
        f"({predicted / measured - 1:+.1%}), whole process {whole:,.0f}"
    )


def _write(kind: str, directory: Path) -> None:
    """Write a random checkpoint and its data."""
    fixture, slices, length = _KINDS[kind]
    make_records(directory / "data", 12, slices=slices, words=(10, length // 8), num_pictures=4)
    if kind == "2.6":
        make_model(directory, num_queries=64, vision=_TOWER, **_LANGUAGE, **_LANGUAGE_2_6)
        return
    for path in (FIXTURES / fixture).glob("*.json*"):
        shutil.copyfile(path, directory / path.name)
    for name, changes in {
        "preprocessor_config.json": {"scale_resolution": 448, "max_slice_nums": 9},
        "config.json": {"text_config": _LANGUAGE | _LANGUAGE_4_6, "vision_config": _TOWER},
    }.items():
        content = json.loads((directory / name).read_text(encoding="utf-8"))
        for key, value in changes.items():
            content[key] = {**content[key], **value} if isinstance(value, dict) else value
        (directory / name).write_text(json.dumps(content), encoding="utf-8")
    written = (directory / "config.json").read_bytes()
    config: Any = read_model_config(directory)
    model: Any = model_class(config)(config)
    model.to(torch.bfloat16)
    model.save_pretrained(directory)
    (directory / "config.json").write_bytes(written)


def _start(name: str, model: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.memory", name, str(model)]
    # Or freed tensors of up to 32 MB stay with the process, in the C library's heap.
    settings = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | settings)
    return json.loads(ran.stdout.splitlines()[-1])


class _Watch(TrainerCallback):
    """Notes resident memory before the model is loaded, and its peak during the steps."""

    def __init__(self) -> None:
        self.before = self.peak = self.whole = 0
        self.num_weights = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Forget the peak of loading."""
        self.num_weights = sum(weight.numel() for weight in kwargs["model"].parameters())
        self.whole = _resident("VmHWM")
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Read the peak of the steps."""
        self.peak = _resident("VmHWM")
        self.whole = max(self.whole, self.peak)


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def run_case(name: str, model: Path) -> dict[str, float]:
    """Train two steps as the command does, and estimate them."""
    case = CASES[name]
    with tempfile.TemporaryDirectory() as folder:
        common = f"--use_cpu true --bf16 false --model_max_length {_KINDS[case.kind].length} --max_steps 2"
        common += " --validation_split 0 --save_strategy no --verify_saved false --report false --report_to none"
        common += " --data_cache false --max_grad_norm 0"
        kept = "--activation_checkpointing false --gradient_accumulation_steps 1 --measure 0"
        flags = [*common.split(), *kept.split(), "--output_dir", folder, *case.flags]
        data = str(model / "data" / "train.jsonl")
        watch = _Watch()
        build: Any = learner._build_model  # pyright: ignore[reportPrivateUsage]

        def build_watched(*args: Any) -> Any:
            torch.nn.Linear(64, 64)(torch.rand(64, 64)).sum().backward()  # what torch itself sets up at the first use
            watch.before = _resident("VmRSS")
            return build(*args)

        learner._build_model = build_watched  # pyright: ignore[reportPrivateUsage]
        run.train(["--model_name_or_path", str(model), "--data_path", data, *flags], callbacks=[watch])
        question = Question(
            arguments=("--model_name_or_path", str(model), "--data_path", data, *flags),
            has_data=True,
            devices=(),
            num_devices=1,
            share=0.35,
        )
        predicted = answer(question).memory.total
    figures = {"predicted": predicted, "measured": watch.peak - watch.before, "process": watch.whole}
    return {"millions": watch.num_weights / 1e6} | {f"{each}_mib": value / 2**20 for each, value in figures.items()}


def main(arguments: Sequence[str]) -> None:
    """Print one case as JSON: its own process's part."""
    warnings.simplefilter("ignore")
    name, model = arguments
    print(json.dumps(run_case(name, Path(model))))


if __name__ == "__main__":
    main(sys.argv[1:])
