"""Decides where a run starts: at the beginning, or at the newest complete checkpoint that it can resume from.

All processes start at the same place: one on each machine looks for checkpoints, and all compare the result.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from transformers import TrainingArguments

from minicpmv.data.media.image_digests import Change, PictureDigests
from minicpmv.errors import CheckpointError, MiniCPMVError, UsageError
from minicpmv.files.checkpoint_folders import list_checkpoints
from minicpmv.training.checkpoints.fingerprint import find_changes, find_extension, find_other_base, find_other_lengths
from minicpmv.training.checkpoints.manifest import find_fault, read_manifest
from minicpmv.training.checkpoints.pickles import find_foreign_object
from minicpmv.training.checkpoints.staging import remove_checkpoints, remove_stale
from minicpmv.training.distributed.console import notice
from minicpmv.training.distributed.engine import name_engine
from minicpmv.training.distributed.processes import gather
from minicpmv.training.flags.declarations import RunArguments
from minicpmv.wording import counted, is_off, is_on, list_few

__all__ = ["PICTURES", "ResumePoint", "Setting", "choose_resume_point", "choose_together", "prepare_directory"]

_CONTINUED_OTHERWISE = (
    "or start a new run from its weights, in another --output_dir: --model_name_or_path {path} (full) or "
    "--lora_weight_path {path} (LoRA)"
)


PICTURES = "pictures.npz"
"""File of a checkpoint: sizes, modification times and digests of the images that were trained on."""


class ResumePoint(NamedTuple):
    """The place where a run starts."""

    path: str | None
    """The checkpoint; None starts from the beginning."""
    notices: tuple[str, ...]
    overridden: tuple[str, ...] = ()
    """Differences from the run that wrote the checkpoint, allowed by a flag."""


@dataclass(frozen=True, slots=True)
class Setting:
    """The settings that must equal those under which a checkpoint was written."""

    world_size: int
    engine: str
    """The engine, from :func:`minicpmv.training.distributed.engine.name_engine`."""
    fingerprint: Mapping[str, Any] = field(default_factory=dict)
    """Settings from :func:`minicpmv.training.checkpoints.fingerprint.take_fingerprint`. The run's length may differ."""
    pictures: PictureDigests | None = None
    """Digests of the images, completed from the checkpoint. None if images are not checked first."""
    allow_other_base: bool = False
    """Whether the base may have other weights of the same shapes."""
    allow_changed_images: bool = False
    """Whether images may differ from those that were trained on."""


def prepare_directory(
    run: RunArguments, args: TrainingArguments, fingerprint: dict[str, Any], pictures: PictureDigests | None
) -> ResumePoint:
    """Decide where a run starts, and remove stale files from its directory. Every process must call it.

    Args:
        run: The flags.
        args: transformers' arguments.
        fingerprint: Settings that determine the run's numbers.
        pictures: Image files of the data.

    Raises:
        UsageError: The directory holds another run's files, which would be mixed up with this one's.
        CheckpointError: A checkpoint is damaged, or this run cannot resume from it.
    """
    other = "config.json" if run.use_lora else "adapter_config.json"
    if (Path(args.output_dir or "") / other).exists():  # PEFT and transformers would read each other's files
        kinds = ("a full model", "an adapter")
        raise UsageError(
            f"--output_dir: found {kinds[not run.use_lora]} in {args.output_dir!r}, expected a directory to save "
            f"{kinds[run.use_lora]} in\n  fix: choose another directory"
        )

    def choose() -> ResumePoint:
        return choose_resume_point(
            args.resume_from_checkpoint,
            output_dir=args.output_dir or "",
            setting=Setting(
                args.world_size,
                name_engine(args),
                fingerprint,
                pictures,
                allow_other_base=run.allow_other_base,
                allow_changed_images=run.allow_changed_images,
            ),
            overwrite=run.overwrite_output_dir,
        )

    start = choose_together(choose, is_leader=args.local_process_index == 0)
    for text in start.notices:
        notice(text)
    if start.path is not None and pictures is None:
        notice("images are not compared with those of the earlier run: --check_first false checks no file in advance")
    if args.local_process_index == 0 and args.output_dir and not run.dry_run:
        stale = remove_stale(args.output_dir)
        if stale:
            notice(f"removed the unfinished files of a killed run: {', '.join(stale)}")
        if start.path is None and run.overwrite_output_dir:
            removed = remove_checkpoints(args.output_dir)
            if removed:
                notice(f"--overwrite_output_dir: removed {', '.join(removed)}")
    return start


def choose_resume_point(flag: str | None, *, output_dir: str, setting: Setting, overwrite: bool) -> ResumePoint:
    """Decide where a run starts.

    Args:
        flag: ``--resume_from_checkpoint``: true for the newest complete checkpoint, a path for that one, else a new
            run.
        output_dir: The run's directory.
        setting: This run's settings.
        overwrite: ``--overwrite_output_dir``.

    Raises:
        UsageError: A new run would be mixed up with the checkpoints of an earlier one, or the path is no checkpoint.
        CheckpointError: The checkpoint is damaged, or this run cannot resume from it.
    """
    word = (flag or "false").strip()
    if is_off(word):
        existing = list_checkpoints(output_dir)
        if existing and not overwrite:
            raise UsageError(
                f"--output_dir: found {existing[-1].name} of an earlier run in {output_dir!r}, expected no "
                "checkpoint\n  fix: resume it with --resume_from_checkpoint true, discard it with "
                "--overwrite_output_dir true, or choose another directory"
            )
        return ResumePoint(None, ())
    if not is_on(word):
        checkpoint = _named(word)
        extended, overridden = _check_resumable(checkpoint, setting)
        return ResumePoint(str(checkpoint), (*extended, *overridden), overridden)
    notices = []
    for checkpoint in reversed(list_checkpoints(output_dir)):
        fault = find_fault(checkpoint, check_content=True)
        if fault is None:
            extended, overridden = _check_resumable(checkpoint, setting)
            notices += [*extended, *overridden, f"resuming from {checkpoint}"]
            return ResumePoint(str(checkpoint), tuple(notices), overridden)
        notices.append(f"{checkpoint} is incomplete or damaged ({fault}); skipped")
    notices.append(f"--resume_from_checkpoint: no complete checkpoint in {output_dir}; starting from the beginning")
    return ResumePoint(None, tuple(notices))


def choose_together(choose: Callable[[], ResumePoint], *, is_leader: bool) -> ResumePoint:
    """Have one process of each machine choose, and all start at the same place. Every process must call it.

    Args:
        choose: Reads this machine's disk; called by leaders only, because it reads whole checkpoints.
        is_leader: Whether this is the first process of its machine.

    Raises:
        MiniCPMVError: ``choose`` raised it on the first machine.
        CheckpointError: Another machine sees another checkpoint.
    """
    mine: ResumePoint | MiniCPMVError | None = None
    if is_leader:
        try:
            mine = choose()
        except MiniCPMVError as error:
            mine = error
    found = gather(mine)
    first = found[0]
    assert first is not None, "process 0 is the first of its machine"
    if isinstance(first, MiniCPMVError):
        raise first
    for rank, other in enumerate(found):
        if other is not None and (isinstance(other, MiniCPMVError) or other.path != first.path):
            seen = other if isinstance(other, MiniCPMVError) else other.path or "no checkpoint"
            raise CheckpointError(
                f"--resume_from_checkpoint: process 0 found {first.path or 'no checkpoint'}, process {rank} on another "
                f"machine found {seen}, expected the same\n  fix: put --output_dir on a disk that all machines share"
            )
    return first


def _named(path: str) -> Path:
    checkpoint = Path(path)
    if not checkpoint.is_dir():
        raise UsageError(
            f"--resume_from_checkpoint: found no directory {path!r}, expected true, false or a checkpoint\n"
            "  fix: --resume_from_checkpoint true finds the newest one in --output_dir; or name a folder that exists"
        )
    fault = find_fault(checkpoint, check_content=True)
    if fault is not None:
        raise CheckpointError(
            f"{checkpoint}: found that {fault}, expected a complete checkpoint\n  fix: resume from another one"
        )
    return checkpoint


def _check_resumable(checkpoint: Path, setting: Setting) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Verify that this run can resume from a complete checkpoint; return what extends it, and what a flag allows."""
    foreign = find_foreign_object(checkpoint)
    if foreign is not None:
        raise CheckpointError(
            f"{checkpoint}: found that {foreign}, expected only what a run writes; nothing in it was executed\n"
            "  fix: resume from a checkpoint of your own, and ask the sender of this one"
        )
    manifest = read_manifest(checkpoint)
    assert manifest is not None, "find_fault has read it"
    otherwise = _CONTINUED_OTHERWISE.format(path=checkpoint)
    if manifest["world_size"] != setting.world_size:
        before = _processes(manifest["world_size"])
        raise CheckpointError(
            f"{checkpoint}: found it written by {before}, expected {setting.world_size} as in this run: batches and "
            f"optimizer shards would differ\n  fix: start with {before} (--num_processes, or GPUS_PER_NODE x NNODES "
            f"of the scripts), {otherwise}"
        )
    engine = manifest["engine"]
    if engine != setting.engine:
        raise CheckpointError(
            f"{checkpoint}: found it written with {engine}, expected {setting.engine} as in this run, which cannot "
            f"read its optimizer\n  fix: use {engine} (--deepspeed, --fsdp), {otherwise}"
        )
    if not any(name.startswith("rng_state") for name in manifest["files"]):
        raise CheckpointError(
            f"{checkpoint}: found weights only (--save_only_model), expected optimizer and random state as well\n"
            "  fix: use it as --model_name_or_path (full) or --lora_weight_path (LoRA) of a new run"
        )
    fingerprint = manifest["fingerprint"]
    overridden = _check_base(checkpoint, fingerprint, setting)
    changes = "\n  ".join(find_changes(fingerprint, setting.fingerprint))
    if changes:
        raise CheckpointError(
            f"{checkpoint}: found other settings than the run that wrote it, expected the same: resuming with "
            f"different settings would mix two runs\n  {changes}\n  fix: use the original settings, {otherwise}"
        )
    overridden += _check_pictures(checkpoint, fingerprint, setting)
    return tuple(find_extension(fingerprint, setting.fingerprint)), overridden


def _check_pictures(checkpoint: Path, fingerprint: Mapping[str, Any], setting: Setting) -> tuple[str, ...]:
    """Verify that the images are those that were trained on, or that a flag allows others; return the differences."""
    changes: list[Change] = []
    if setting.pictures is not None and (checkpoint / PICTURES).is_file():
        try:
            with np.load(checkpoint / PICTURES, allow_pickle=False) as kept:
                states, digests = kept["states"], kept["digests"]
            changes = setting.pictures.compare(states, digests)
        except (KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
            raise CheckpointError(
                f"{checkpoint}: found an unreadable {PICTURES} ({error}), expected the file that a run writes\n"
                "  fix: resume from another checkpoint"
            ) from error
        setting.pictures.recall(digests, without=changes)
    told = list_few([str(change) for change in changes], most=5, indent="  ").strip()
    replanned = find_other_lengths(fingerprint, setting.fingerprint)
    found = [f"{counted(len(changes), 'image')} other than those of the run that wrote it"] if changes else []
    found += [replanned] if replanned else []
    if not found:
        return ()
    described = " and ".join(found) + (f"\n  {told}" if told else "")
    if setting.allow_changed_images:
        return (described,)
    raise CheckpointError(
        f"{checkpoint}: found {described}\n  expected the same images: resuming with different ones would mix two "
        f"runs\n  fix: restore the images; to resume anyway, add --allow_changed_images true; "
        f"{_CONTINUED_OTHERWISE.format(path=checkpoint)}"
    )


def _check_base(checkpoint: Path, fingerprint: Mapping[str, Any], setting: Setting) -> tuple[str, ...]:
    """Verify that a checkpoint's base is this run's, or a fitting one that a flag allows; return the difference."""
    other = find_other_base(fingerprint, setting.fingerprint)
    if other is None:
        return ()
    described, fits = other
    if fits and setting.allow_other_base:
        return (described,)
    found = "another base model" if fits else "a base model of another shape"
    allow = " or, to resume with the other one, add --allow_other_base true;" if fits else ""
    raise CheckpointError(
        f"{checkpoint}: found {found}, expected the one that it was trained from\n  {described}\n"
        f"  fix: name the original base;{allow} {_CONTINUED_OTHERWISE.format(path=checkpoint)}"
    )


def _processes(count: int) -> str:
    return f"{count} process{'es' if count > 1 else ''}"
