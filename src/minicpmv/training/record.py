"""``run.json``: what was run, on what, with which versions, and what came of it."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import platform
import shlex
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

import minicpmv
from minicpmv.data.records import Record
from minicpmv.models.versions import Version
from minicpmv.processing.chat import ImageRef
from minicpmv.training.arguments import Request
from minicpmv.training.parts import PartSummary

__all__ = ["chat_command", "describe_run"]

_PACKAGES = ("torch", "transformers", "peft", "accelerate", "deepspeed", "tokenizers", "safetensors", "numpy", "pillow")


def describe_run(
    request: Request, args: TrainingArguments, *, version: Version, base: Path, parts: Iterable[PartSummary]
) -> dict[str, Any]:
    """Collect what a run is made of, as JSON; metrics are added when it is over."""
    return {
        "status": "running",
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", "minicpmv.training", *request.command]),
        "base_model": {"path": str(base.resolve()), "model": version.model, "version": version.name},
        "data": [_digest(path) for path in request.run.data_path],
        "eval_data": [_digest(path) for path in request.run.eval_data_path],
        "seed": args.seed,
        "processes": args.world_size,
        "device": args.device.type,
        "trained": [dataclasses.asdict(part) for part in parts],
        "arguments": dataclasses.asdict(request.run),
        "training_arguments": _plain(args.to_dict()),
        "versions": _versions(),
    }


def _digest(path: str) -> dict[str, Any]:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return {"path": os.path.abspath(path), "sha256": digest.hexdigest()}


def _versions() -> dict[str, str]:
    versions = {"minicpmv-finetune": minicpmv.__version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    """Leave out secrets and what JSON cannot hold."""
    return {
        name: value
        for name, value in sorted(settings.items())
        if "token" not in name and isinstance(value, str | int | float | bool | list | dict | None)
    }


def chat_command(directory: str, records: Sequence[Record]) -> str:
    """Write the command that talks to what was trained, with the first question that has an image if there is one.

    The words can be pasted into a shell as they are: the scripts say in MINICPMV how a user reaches the command, which
    may lie in an environment that only they have active.
    """
    words = [os.environ.get("MINICPMV", "minicpmv"), "chat", directory]
    record = next((record for record in records if record.images), records[0])
    question = next(turn for turn in record.turns if turn.role == "user")
    for part in question.content:
        if isinstance(part, ImageRef):
            words += ["--image", record.images[part.index]]
    text = "\n".join(part for part in question.content if isinstance(part, str)).strip()
    return shlex.join([*words, text] if text else words)
