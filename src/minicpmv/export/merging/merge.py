"""Merges an adapter into its base: one self-contained directory in the released layout.

All checks come first. Then the tensors are merged and written next to the target, compared with base and adapter, and
moved into place in one step.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from minicpmv.devices.memory import free_memory
from minicpmv.errors import CheckpointError, UsageError
from minicpmv.export.merging.merged_tensors import MergedTensors, open_merged
from minicpmv.export.merging.overwriting import refuse_losses
from minicpmv.export.merging.shards import num_bytes, write_shards
from minicpmv.export.merging.verification import (
    Agreement,
    bytes_to_compare,
    compare_merged,
    find_samples,
    refuse_disagreement,
)
from minicpmv.files.atomic_files import staging, write_json
from minicpmv.files.disk_space import check_space, writing
from minicpmv.files.places import check_directory
from minicpmv.inference.loading import base_of_adapter, default_device
from minicpmv.machine.installed import list_versions
from minicpmv.models.adapters.base_identity import film_settings_of_adapter, mode_of_adapter, warn_of_base
from minicpmv.models.checkpoints.carried import find_carried
from minicpmv.models.checkpoints.companions import copy_companions, num_bytes_of_folders
from minicpmv.models.checkpoints.downsampling import state_downsample_mode
from minicpmv.models.checkpoints.film_settings import state_film_settings
from minicpmv.models.checkpoints.weight_files import find_weight_files
from minicpmv.releases.directories import find_directory
from minicpmv.releases.model_files import read_config
from minicpmv.releases.table import detect_version
from minicpmv.terminal.redaction import clean_settings
from minicpmv.terminal.streams import advise

__all__ = ["RECORD", "MergeSettings", "Merged", "merge_adapter"]

RECORD = "merge.json"
"""Name of the file in a merged directory that records its sources, and how closely it matches them."""

_AFTERWARDS = "nothing was changed\n  fix: free space there, or name another place"


@dataclass(frozen=True, kw_only=True, slots=True)
class MergeSettings:
    """Settings of a merge."""

    base: str | None = None
    """Directory or hub name of the base; by default the one that the adapter names."""
    dtype: torch.dtype | None = None
    """Precision of all weights; by default as the base stores each."""
    max_shard_size: str = "5GB"
    overwrite: bool = False
    """Whether a non-empty directory may be replaced."""
    is_verified: bool = True
    """Whether the merged model is compared with base and adapter."""
    device: str | None = None
    """Device of the comparison; by default the first GPU if there is one with enough memory, else the CPU."""
    allow_other_base: bool = False
    """Whether the adapter may have been trained on other weights than the base's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Merged:
    """The result of a merge."""

    directory: Path
    base: Path
    other_base: str | None
    """A description of both bases where another one was allowed; None if it is the adapter's, or none is recorded."""
    num_lora_modules: int
    num_replaced: int
    num_untouched: int
    """Number of tensors taken from the base, possibly in another precision."""
    num_carried: int
    """Number of tensors whose bytes are the base's: the speech of MiniCPM-o."""
    bytes: int
    files: list[str]
    compared_on: str | None
    agreements: list[Agreement]


def merge_adapter(
    adapter: str | Path,
    directory: str | Path,
    settings: MergeSettings | None = None,
    *,
    on_tensor: Callable[[int, int], None] = lambda done, total: None,
) -> Merged:
    """Merge, and write a model directory.

    Args:
        adapter: The adapter's directory.
        directory: Target; it appears when it is complete.
        settings: Settings of the merge.
        on_tensor: Called with the number of bytes written, and that of all tensors.

    Raises:
        CheckpointError: Adapter or base is broken, they do not belong together, or the result does not match them.
        UsageError: The settings cannot be applied.
        DiskError: The disk is full.
    """
    settings = settings or MergeSettings()
    adapter, directory = Path(adapter), Path(directory).expanduser()
    base = _find_base(adapter, settings.base)
    config = read_config(base)
    _refuse_packed(base, config)
    _refuse_directory(directory, (base, adapter), overwrite=settings.overwrite)
    other_base = warn_of_base(adapter, base, allow_other=settings.allow_other_base)
    place = directory.resolve()  # `.` has no name
    staged = place.with_name(f".{place.name}.partial") / "model"
    with open_merged(base, adapter, dtype=settings.dtype) as tensors:
        device = _place_to_compare(tensors, settings) if settings.is_verified else None
        total = num_bytes(list(tensors.outlines.values()))
        check_space(place.parent, total + num_bytes_of_folders(base), afterwards=_AFTERWARDS)
        with _staging(staged.parent):
            with writing(staged, needed=total, afterwards=_AFTERWARDS):
                staged.mkdir(parents=True)
                files = _write(tensors, staged, settings.max_shard_size, lambda done: on_tensor(done, total))
                copy_companions(base, staged, dtype=settings.dtype)
                state_downsample_mode(staged, mode_of_adapter(adapter))
                state_film_settings(staged, film_settings_of_adapter(adapter))
            _refuse_other_carried(base, staged, config)
            described, agreements = None, []
            if device is not None:
                described, agreements = _verify(base, adapter, staged, tensors, settings.dtype, device)
            num_touched = sum(map(tensors.is_touched, tensors.outlines))
            merged = Merged(
                directory=directory,
                base=base,
                other_base=other_base,
                num_lora_modules=tensors.num_lora_modules,
                num_replaced=tensors.num_replaced,
                num_untouched=len(tensors.outlines) - num_touched - len(tensors.carried),
                num_carried=len(tensors.carried),
                bytes=total,
                files=files,
                compared_on=described,
                agreements=agreements,
            )
            write_json(staged / RECORD, clean_settings(_describe(merged, adapter)))
            _put_in_place(staged, place)
    return merged


def _find_base(adapter: Path, named: str | None) -> Path:
    stated = base_of_adapter(adapter) if named is None or not (adapter / "adapter_config.json").is_file() else named
    if stated is None:
        raise CheckpointError(
            f"{adapter}: found no adapter_config.json, expected the directory of an adapter\n"
            "  fix: name the directory that holds it; a fully tuned model needs no merging"
        )
    return find_directory(stated, asked_by=f"base of {adapter}", fix="--base DIRECTORY")


def _refuse_packed(base: Path, config: dict[str, Any]) -> None:
    if config.get("quantization_config"):
        raise CheckpointError(
            f"{base}: found quantized weights, expected unquantized ones to merge into\n"
            "  fix: --base with the unquantized release, and --allow-other-base; the comparison says what "
            "that changes"
        )


def _refuse_directory(directory: Path, sources: tuple[Path, ...], *, overwrite: bool) -> None:
    place = directory.resolve()
    for source in sources:
        if place == source.resolve() or place in source.resolve().parents:
            raise UsageError(
                f"{directory}: found the source {source} there, expected a separate directory\n"
                "  fix: name another directory"
            )
    if directory.is_file():
        raise UsageError(f"{directory}: found a file, expected a directory or nothing\n  fix: name another")
    check_directory(directory, asked_by="OUT")
    if directory.is_dir() and overwrite:
        refuse_losses(directory, sources)
    elif directory.is_dir() and any(directory.iterdir()):
        raise UsageError(
            f"{directory}: found files in it, expected a new or empty directory\n"
            "  fix: name another, or --overwrite to replace an existing model"
        )


def _place_to_compare(tensors: MergedTensors, settings: MergeSettings) -> torch.device:
    """Choose the device of the comparison, before anything is merged.

    Raises:
        UsageError: Memory is too small.
    """
    needed = bytes_to_compare(sum(outline.numel() for outline in tensors.outlines.values()))
    device, cpu = default_device(settings.device), torch.device("cpu")
    if settings.device is None and free_memory(device) < needed:
        device = cpu
    for place in (cpu, device):  # weights pass through the CPU in any case
        free = free_memory(place)
        if free < needed:
            raise UsageError(
                f"{place}: found {free:,} bytes of memory free, expected {needed:,} to compare the merged model with "
                "base and adapter\n  fix: free memory, or --no-verify, which needs only the memory of one layer"
            )
    return device


def _write(tensors: MergedTensors, directory: Path, max_shard_size: str, on_bytes: Callable[[int], None]) -> list[str]:
    done = 0

    def compute(name: str) -> torch.Tensor:
        nonlocal done
        tensor = tensors.read(name)
        done += num_bytes([tensor])
        on_bytes(done)
        return tensor

    return write_shards(directory, tensors.outlines, compute, max_shard_size=max_shard_size)


def _refuse_other_carried(base: Path, staged: Path, config: dict[str, Any]) -> None:
    """Verify that what is carried is the base's, byte for byte.

    Raises:
        CheckpointError: It is not.
    """
    prefixes = detect_version(config).network.carried
    found, expected = (find_carried(find_weight_files(folder), prefixes) for folder in (staged, base))
    wrong = [name for names in found.compare(expected.facts()) for name in names]
    if wrong:
        raise CheckpointError(
            f"{base}: found {len(wrong)} tensors that were not copied as they are, such as {wrong[0]}, expected the "
            "same bytes; nothing is saved\n  fix: make sure that nothing changes the base, and merge again"
        )


def _verify(
    base: Path,
    adapter: Path,
    merged: Path,
    tensors: MergedTensors,
    dtype: torch.dtype | None,
    device: torch.device,
) -> tuple[str, list[Agreement]]:
    samples = find_samples(adapter, base)
    precise = compare_merged(base, adapter, merged, samples, dtype=torch.float32, device=device)
    written = {outline.dtype for name, outline in tensors.outlines.items() if tensors.is_touched(name)}
    refuse_disagreement(precise, adapter, is_exact=written <= {torch.float32} and dtype in (None, torch.float32))
    agreements = [precise]
    if len(written) == 1 and written != {torch.float32}:  # as it will be used later
        agreements.append(compare_merged(base, adapter, merged, samples, dtype=written.pop(), device=device))
    return samples.described, agreements


def _describe(merged: Merged, adapter: Path) -> dict[str, Any]:
    stated = dataclasses.asdict(merged)
    del stated["directory"]  # its directory may be moved
    return {
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "adapter": str(adapter.resolve()),
        **stated,
        "base": str(merged.base.resolve()),
        "versions": list_versions(),
    }


@contextmanager
def _staging(folder: Path) -> Iterator[None]:
    """Lock the folder in which a model is assembled; remove what a killed process left there."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with staging(folder):
            yield
    except BlockingIOError as error:
        raise UsageError(
            f"{folder}: found {error.strerror}, expected no other merge there\n  fix: {advise(error)}"
        ) from error


def _put_in_place(staged: Path, directory: Path) -> None:
    """Rename the model into place, and only then delete the old one."""
    before = staged.parent / "before"
    with suppress(FileNotFoundError):
        os.replace(directory, before)
    try:
        os.replace(staged, directory)
    except OSError:
        if before.exists():
            os.replace(before, directory)
        raise
