"""Records a run in ``run.json``: its flags, data, machine, versions and results."""

from __future__ import annotations

import dataclasses
import os
import shlex
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from transformers import TrainingArguments

import minicpmv
from minicpmv.data.records.record import Record
from minicpmv.data.samples.lengths import spread
from minicpmv.data.sources.mixing import DataSource
from minicpmv.data.sources.source_digests import Content
from minicpmv.data.sources.validation import ValidationSplit
from minicpmv.files.atomic_files import write_json
from minicpmv.machine.description import describe_machine
from minicpmv.machine.installed import list_versions
from minicpmv.machine.value import Machine
from minicpmv.models.adapters.base_identity import BaseIdentity
from minicpmv.processing.text.turns import FilmRef, ImageRef
from minicpmv.terminal.redaction import clean_settings
from minicpmv.training.flags.arguments import Request
from minicpmv.training.inputs.run_inputs import RunInputs
from minicpmv.training.learning.parts import PartSummary

__all__ = [
    "RunFile",
    "chat_command",
    "describe_data",
    "describe_run",
    "describe_split",
    "minicpmv_command",
]

_MAX_BINS = 24
"""Most bins of the histogram of lengths."""


class RunFile:
    """Writes the ``run.json`` of a run, with every secret redacted.

    Args:
        directory: The run's directory.
        content: Entries known before the first step.
        is_writing: Whether this process writes it.
    """

    def __init__(self, directory: Path, content: dict[str, Any], *, is_writing: bool) -> None:
        self._path = directory / "run.json"
        self._content = content
        self._is_writing = is_writing

    def note(self, **entries: Any) -> None:
        """Add entries, without writing the file."""
        self._content |= entries

    def write(self, **entries: Any) -> None:
        """Add entries, and write the file."""
        self.note(**entries)
        if self._is_writing:
            write_json(self._path, clean_settings(self._content))


def describe_run(
    request: Request,
    args: TrainingArguments,
    *,
    base: BaseIdentity,
    inputs: RunInputs,
    parts: Iterable[PartSummary],
    plan: Mapping[str, Any],
    overridden: Sequence[str],
    machine: Machine,
) -> dict[str, Any]:
    """Describe a run as JSON; metrics are added when it is over.

    Args:
        request: The flags.
        args: transformers' arguments.
        base: Identity of the base weights.
        inputs: The data.
        parts: The parts of the model and whether they are trained.
        plan: Figures of an optimizer step.
        overridden: Differences from the checkpoint or adapter that it starts from, allowed by a flag.
        machine: The machine; of several, the first.
    """
    return {
        "status": "running",
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", "minicpmv.training", *request.command]),
        "working_directory": os.getcwd(),
        "base_model": {
            "path": str(inputs.base.resolve()),
            "model": inputs.version.model,
            "version": inputs.version.name,
            "weights": base.weights,
        },
        "overridden": list(overridden),
        "data": describe_data(request.run.train_sources, inputs.contents),
        "eval_data": [
            described | ({"set": name} if name else {})
            for name, sources in request.run.eval_sources.items()
            for described in describe_data(sources, inputs.contents)
        ],
        "validation_split": describe_split(inputs.split),
        "seed": args.seed,
        "processes": args.world_size,
        "device": args.device.type,
        "machine": describe_machine(machine, device_type=args.device.type),
        "plan": dict(plan),
        "data_statistics": _describe_records(inputs),
        "trained": [dataclasses.asdict(part) for part in parts],
        "arguments": dataclasses.asdict(request.run),
        "training_arguments": _plain(args.to_dict()),
        "versions": list_versions(),
        "commit": _commit(),
    }


def describe_data(sources: Iterable[DataSource], contents: Mapping[str, Content]) -> list[dict[str, Any]]:
    """Name each source with its weight and the digest of its content."""
    return [
        {"path": os.path.abspath(source.path), "sha256": contents[source.path].sha256}
        | ({} if source.weight == 1 else {"weight": source.weight})
        for source in sources
    ]


def describe_split(split: ValidationSplit | None) -> dict[str, Any] | None:
    """Describe the validation split: its size, that of the data, and a digest of its records; None without a split."""
    if split is None:
        return None
    return {"held_out": len(split.records), "of": split.num_records, "sha256": split.sha256}


def _describe_records(inputs: RunInputs) -> dict[str, Any]:
    """Describe the training data in numbers; in fewer with ``--check_first false``."""
    statistics: dict[str, Any] = {"records": len(inputs.train), "validation_records": inputs.num_validation}
    report = inputs.lengths
    if report is None:
        return statistics
    shortest, longest = int(report.lengths.min()), int(report.lengths.max())
    num_bins = min(_MAX_BINS, longest - shortest + 1)
    counts, edges = np.histogram(report.lengths, bins=num_bins, range=(shortest, longest + 1))
    return statistics | {
        "records_with_images": int(np.count_nonzero(report.num_image_tokens)),
        "tokens": int(report.lengths.sum(dtype=np.int64)),
        "trained_tokens": int(report.num_trained.sum(dtype=np.int64)),
        "image_tokens": int(report.num_image_tokens.sum(dtype=np.int64)),
        "record_lengths": dataclasses.asdict(spread(report.lengths)),
        "length_histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
        "records_with_fewer_slices": report.num_reduced,
        "records_with_cut_answers": report.num_cut,
    }


def _commit() -> str | None:
    """Return the commit of the checkout that this package runs from, ``-dirty`` with changes; None without one."""
    here = Path(minicpmv.__file__)

    def git(*arguments: str) -> str | None:
        with suppress(OSError):  # no git
            done = subprocess.run(["git", *arguments], cwd=here.parent, capture_output=True, text=True, check=False)
            return done.stdout.strip() if done.returncode == 0 else None
        return None

    if git("ls-files", "--error-unmatch", here.name) is None:  # installed, perhaps within another repository
        return None
    return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that JSON can hold."""
    return {
        name: value
        for name, value in sorted(settings.items())
        if isinstance(value, str | int | float | bool | list | dict | None)
    }


def _can_be_asked(record: Record) -> bool:
    """Return whether the images and films of a record can be named on a command line."""
    requests = {film.request for film in record.films}
    return (
        all(isinstance(image, str) for image in record.images)
        and all(isinstance(film.source, str) for film in record.films)
        and len(requests) <= 1  # the options are for all films
        and all(request.times is None for request in requests)
    )


def minicpmv_command() -> str:
    """Return the command to call the CLI with. The scripts set it, since they may use an environment of their own."""
    return os.environ.get("MINICPMV", "minicpmv")


def chat_command(directory: str, records: Sequence[Record]) -> str:
    """Return the command to chat with the trained model, with the first question about image or film files, if any.

    It is quoted for a shell.
    """
    words = [minicpmv_command(), "chat", directory]
    if not records:
        return shlex.join(words)
    askable = [record for record in records if _can_be_asked(record)]
    seen = next((record for record in askable if record.images or record.films), None)
    record = seen or next(iter(askable), records[0])
    question = next(turn for turn in record.turns if turn.role == "user")
    for part in question.content:
        if isinstance(part, ImageRef):
            image = record.images[part.index]
            words += ["--image", image if isinstance(image, str) else "IMAGE"]
        elif isinstance(part, FilmRef):
            film = record.films[part.index]
            words += ["--video", film.source if isinstance(film.source, str) else "VIDEO"]
    if "--video" in words:
        asked = record.films[0].request
        flags = {"--video-fps": asked.fps, "--max-frames": asked.max_frames, "--start": asked.start, "--end": asked.end}
        words += [word for flag, value in flags.items() if value is not None for word in (flag, f"{value}")]
    text = question.text.strip()
    return shlex.join([*words, text] if text else words)
