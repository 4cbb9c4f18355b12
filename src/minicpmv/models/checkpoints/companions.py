"""Copies what a checkpoint holds besides its weights: tokenizer, processor, template, code, licence, config.

Folders that the release's row calls whole, such as MiniCPM-o's ``assets``, are copied with the weights in them.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path

import torch

from minicpmv.errors import CheckpointError
from minicpmv.files.atomic_files import write_json
from minicpmv.models.checkpoints.end_tokens import complete_end_ids, find_end_ids
from minicpmv.releases.model_files import read_config
from minicpmv.releases.table import detect_version

__all__ = ["copy_companions", "list_companions", "list_whole_folders", "num_bytes_of_folders"]

_NOT_COPIED = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf", "*.h5", "*.msgpack", "*.onnx", "*.index.json")
_WRITTEN_ANEW = {"config.json", "checkpoint.json", "merge.json", "trainer_state.json"}
_OF_A_RUN = {
    *(
        "run.json",
        "run.yaml",
        "log.jsonl",
        "samples.jsonl",
        "skipped.jsonl",
        "before.jsonl",
        "after.jsonl",
        "verification.json",
    ),
    *("report.html", "loss.png"),
}
"""Files in which a run describes itself. Copied from a base that was trained here, they would replace its own."""
_MOST_BYTES = 256 * 2**20


def copy_companions(base: Path, directory: Path, *, dtype: torch.dtype | None) -> None:
    """Copy what a checkpoint holds beside its weights: tokenizer, processor, template, code, licence, config.

    Byte for byte, so whatever worked with the original works with the copy. Code is copied, never run. The config is
    the original's with the precision of the weights: transformers would write the state of training into it. The
    generation config gets the end tokens that it lacks. Files of whole folders are linked where the disk can link them:
    they may be gigabytes.

    Args:
        base: The checkpoint that training started from.
        directory: Where the weights were saved.
        dtype: Their precision; None if it is as the original's config says.

    Raises:
        CheckpointError: A whole folder holds what cannot be copied.
    """
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    if dtype is not None:
        # As the file calls it: 4.6 and later say dtype.
        config["dtype" if "dtype" in config else "torch_dtype"] = str(dtype).removeprefix("torch.")
    write_json(directory / "config.json", config)
    for name in list_companions(base):
        target = directory / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(base / name, target)  # follows the links of a download cache
    for name in list_whole_folders(base):
        _link_or_copy(base / name, directory / name)
    _complete_generation_config(directory / "generation_config.json", find_end_ids(base, detect_version(config)))


def list_companions(base: Path) -> Iterator[Path]:
    """List what is copied of a checkpoint, by the names inside it, besides whole folders."""
    whole = _whole_folders(base)
    for path in sorted(base.rglob("*")):
        name = path.relative_to(base)
        hidden = any(part.startswith(".") for part in name.parts)
        trained_here = any(part.startswith("checkpoint-") or part == "runs" for part in name.parts[:-1])
        if name.parts[0] in whole or hidden or trained_here or not path.is_file() or path.stat().st_size > _MOST_BYTES:
            continue
        if str(name) in _WRITTEN_ANEW | _OF_A_RUN or any(fnmatch(path.name, pattern) for pattern in _NOT_COPIED):
            continue
        yield name


def list_whole_folders(base: Path) -> Iterator[Path]:
    """List every file of the folders that the release's row calls whole, by the names inside the checkpoint.

    Raises:
        CheckpointError: One is no plain file, or a link that leads out of the checkpoint.
    """
    root = base.resolve()
    # A download cache keeps the files of `snapshots/REVISION` under `blobs`, and links to them.
    allowed = [root, *([root.parents[1] / "blobs"] if root.parent.name == "snapshots" else [])]
    for folder in _whole_folders(base):
        for path in sorted((base / folder).rglob("*")):
            if path.is_dir() and not path.is_symlink():
                continue
            if not path.is_file() or not any(place in path.resolve().parents for place in allowed):
                found = "a link that leads out of it or nowhere" if path.is_symlink() else "a FIFO, socket or device"
                raise CheckpointError(
                    f"{path}: found {found}, expected files of the checkpoint: {folder}/ is copied whole\n"
                    "  fix: put the file itself there, or download the checkpoint again"
                )
            yield path.relative_to(base)


def num_bytes_of_folders(base: Path) -> int:
    """Count the bytes of whole folders.

    Raises:
        CheckpointError: As ``list_whole_folders``.
    """
    return sum((base / name).stat().st_size for name in list_whole_folders(base))


def _whole_folders(base: Path) -> Sequence[str]:
    folders = detect_version(read_config(base)).network.whole_folders
    for folder in folders:
        if (base / folder).is_symlink():
            raise CheckpointError(
                f"{base / folder}: found a link, expected the folder itself: it is copied whole\n"
                "  fix: move the folder there, or download the checkpoint again"
            )
    return folders


def _link_or_copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)  # or a copy would write into the file that an earlier link shares
    try:
        os.link(source.resolve(), target)
    except OSError:  # another disk, or one without links, or another user's file
        shutil.copyfile(source, target)


def _complete_generation_config(file: Path, ends: list[int]) -> None:
    """Name the end tokens that it lacks, at which other engines would not stop either."""
    stated = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    completed = complete_end_ids(stated.get("eos_token_id"), ends)
    if completed != stated.get("eos_token_id"):
        write_json(file, stated | {"eos_token_id": completed})
