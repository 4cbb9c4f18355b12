"""The commands that users type, on a tiny model: train, sample, measure, save, prove, go on, answer.

Each is a process of its own, in each precision: LoRA and full.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.batches import make_tiny_data
from benchmarks.gpu.cases import Case, Finding, Setting, run_python
from benchmarks.models import FIXTURES

__all__ = ["SECONDS", "cases", "read_run", "training_words"]

SECONDS = 120.0
"""Within which a command of a few tiny steps ends; on a GPU it takes a tenth of that."""
MODEL = FIXTURES / "v2_6"
_STEPS = 4
_KINDS = {"LoRA": ["--use_lora", "true"], "full": []}
_PRECISIONS = {"bf16": ["--bf16", "true"], "fp16": ["--fp16", "true"], "fp32": ["--bf16", "false"]}


def training_words(data: str, output: Path, *more: str, steps: int = _STEPS) -> list[str]:
    """Say what the training commands here have in common, as typed after ``python``."""
    words = ["-m", "minicpmv.training", "--model_name_or_path", str(MODEL), "--data_path", data]
    common = f"--max_steps {steps} --logging_steps 1 --learning_rate 1e-3 --warmup_steps 0 --report_to none"
    common += " --data_cache false --report false --save_steps 2 --measure 0 --gradient_accumulation_steps 1"
    common += " --activation_checkpointing false"
    return [*words, "--output_dir", str(output), *common.split(), *more]


def read_run(output: Path) -> dict[str, Any]:
    """Read what a run left about itself."""
    return json.loads((output / "run.json").read_text(encoding="utf-8"))


def cases(setting: Setting) -> list[Case]:
    """List kinds and precisions, what a user is likeliest to take first; then what follows a run."""
    precisions = [name for name in _PRECISIONS if setting.is_cuda or name != "fp16"]  # which no CPU trains in
    found = [
        Case(f"{kind}, {precision}", lambda kind=kind, precision=precision: _train(setting, kind, precision))
        for precision in precisions
        for kind in _KINDS
    ]
    return [
        *found[:2],
        Case("going on", lambda: _go_on(setting)),
        Case("answers", lambda: _answer(setting)),
        *found[2:],
    ]


def _output(setting: Setting, kind: str, precision: str) -> Path:
    return setting.folder / "commands" / f"{kind}-{precision}"


def _data(setting: Setting) -> str:
    path = setting.folder / "commands-data" / "train.jsonl"
    return str(path) if path.exists() else make_tiny_data(path.parent, num_records=12)


def _words(kind: str, precision: str, data: str) -> list[str]:
    """Say what a run is asked for: also that the model answers before the first step, and after the last."""
    asked = f"--eval_strategy steps --eval_steps {_STEPS} --eval_samples 2 --eval_sample_tokens 4 --eval_on_start true"
    asked += " --eval_metrics cer --eval_metrics_records 2 --eval_max_new_tokens 4"
    return [*_KINDS[kind], *_PRECISIONS[precision], "--eval_data_path", data, *asked.split()]


def _train(setting: Setting, kind: str, precision: str) -> Iterator[Finding]:
    data, output = _data(setting), _output(setting, kind, precision)
    yield _run(setting, output, training_words(data, output, *_words(kind, precision, data)))


def _go_on(setting: Setting) -> Iterator[Finding]:
    """Train on from the first run's last checkpoint."""
    data, output = _data(setting), _output(setting, "LoRA", "bf16")
    words = [*_words("LoRA", "bf16", data), "--resume_from_checkpoint", "true"]
    found = _run(setting, output, training_words(data, output, *words, steps=2 * _STEPS))
    yield {**found, "holds": found["holds"] and len(found["losses"]) == 2 * _STEPS}


def _run(setting: Setting, output: Path, words: Sequence[str]) -> Finding:
    started = time.perf_counter()
    run_python(words, seconds=SECONDS)
    seconds = time.perf_counter() - started
    result = json.loads((output / "verification.json").read_text(encoding="utf-8"))
    losses = [entry["loss"] for entry in read_run(output)["log"] if "loss" in entry]
    on_device = str(result["device"]).startswith(setting.device.type)
    return {
        "holds": result["verdict"] == "verified" and on_device and all(map(math.isfinite, losses)),
        "expected": f"finite losses, and a verification on {setting.device.type}",
        "seconds": seconds,
        "losses": losses,
        "verdict": result["verdict"],
        "verified_on": result["device"],
    }


def _answer(setting: Setting) -> Iterator[Finding]:
    answers = setting.folder / "answers.jsonl"
    started = time.perf_counter()
    words = ["-m", "minicpmv", "predict", _output(setting, "LoRA", "bf16"), _data(setting), "--output", answers]
    run_python([*words, "--max-new-tokens", "8"], seconds=SECONDS)
    number = len(answers.read_text(encoding="utf-8").splitlines())
    seconds = time.perf_counter() - started
    yield {"holds": number == 12, "expected": "12 answers", "answers": number, "seconds": seconds}
