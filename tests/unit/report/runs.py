"""Directories as runs leave them, made by hand."""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minicpmv.report.holder import LOCK

LOG: list[dict[str, Any]] = [
    {"step": 1, "loss": 4.0, "grad_norm": 2.0, "grad_norm/resampler": 1.5, "learning_rate": 1e-3, "memory_gib": 0.5},
    {"step": 2, "loss": 2.0, "grad_norm": 1.0, "grad_norm/resampler": 0.5, "learning_rate": 5e-4, "memory_gib": 0.6},
    {"step": 2, "epoch_loss": 3.0},
    {"step": 2, "eval_loss": 2.5, "eval_anls": 0.25, "eval_runtime": 3.0},
    {"step": 3, "loss": 1.25, "grad_norm": 0.5, "grad_norm/resampler": 0.25, "learning_rate": 0.0, "memory_gib": 0.6},
    {"step": 3, "epoch_loss": 1.25},
    {"step": 3, "eval_loss": 1.5, "eval_anls": 0.75, "eval_runtime": 3.0},
    {"step": 3, "train_runtime": 75.0, "train_loss": 2.0},
]


def facts(**changed: Any) -> dict[str, Any]:
    """Return what ``run.json`` holds."""
    return {
        "status": "finished",
        "started": "2026-01-02T03:04:05+00:00",
        "command": "python -m minicpmv.training --learning_rate 1e-3 --lora_r 8",
        "working_directory": "/start/here",
        "base_model": {"path": "/models/base", "model": "openbmb/MiniCPM-V-2_6", "version": "2.6"},
        "data": [{"path": "/data/train.json", "sha256": "ab" * 32}],
        "eval_data": [],
        "seed": 42,
        "processes": 1,
        "device": "cpu",
        "plan": {"records": 8, "steps_per_epoch": 3, "records_per_step": 2.67, "tokens_per_step": 160.5},
        "data_statistics": {"records": 8, "validation_records": 2},
        "trained": [
            {"part": "resampler", "parameters": 1000, "trainable": 1000, "how": "full", "learning_rates": [0.001]}
            | {"weight_decays": [0.1]}
        ],
        "arguments": {"use_lora": True, "lora_r": 8, "data_path": ["train.json"]},
        "training_arguments": {"learning_rate": 0.001, "max_steps": -1, "num_train_epochs": 2.0, "output_dir": "x"},
        "versions": {"torch": "2.13.0"},
        "commit": None,
        "metrics": {"train_runtime": 75.0},
        "log": LOG,
    } | changed


def write_run(directory: Path, *, samples: Sequence[dict[str, Any]] = (), **changed: Any) -> Path:
    """Write a finished run, or one whose ``run.json`` is changed."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "run.json").write_text(json.dumps(facts(**changed)), encoding="utf-8")
    if samples:
        write_lines(directory / "samples.jsonl", samples)
    return directory


def leave_lock(directory: Path, *, host: str | None = None) -> None:
    """Leave the lock of a run that was killed, here or on another machine."""
    holder = {"host": host or socket.gethostname(), "process": 7, "started": "2026-01-02T03:04:05+00:00"}
    (directory / LOCK).write_text(json.dumps(holder), encoding="utf-8")


def write_lines(path: Path, entries: Sequence[dict[str, Any]]) -> str:
    path.write_text("".join(f"{json.dumps(entry)}\n" for entry in entries), encoding="utf-8")
    return str(path)


def sample(step: int, answer: str, *, record: str = "r", expected: str = "yes", **more: Any) -> dict[str, Any]:
    return {"step": step, "record": record, "question": "Is it?", "expected": expected, "answer": answer} | more


def answer_line(key: str, answer: str, reference: str, **more: Any) -> dict[str, Any]:
    return {"id": key, "index": 0, "question": "Is it?", "answer": answer, "reference": reference} | more
