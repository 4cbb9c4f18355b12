"""Saves a finished run: an adapter with its fully trained parts, or a complete checkpoint in the released layout.

Every file is JSON, safetensors, or a ``torch.save`` of plain tensors that loads with ``weights_only``. Tensors are
written unsharded, whatever the engine.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from minicpmv.errors import NotFiniteError, UsageError
from minicpmv.files.atomic_files import STAGING, write_json
from minicpmv.files.disk_space import writing
from minicpmv.models.adapters.base_identity import write_base
from minicpmv.models.checkpoints.companions import copy_companions
from minicpmv.models.checkpoints.downsampling import state_downsample_mode
from minicpmv.models.checkpoints.film_settings import film_settings_of, state_film_settings
from minicpmv.models.checkpoints.weight_files import find_float32, find_weight_files
from minicpmv.models.finiteness import find_not_finite
from minicpmv.models.skeleton import build_skeleton
from minicpmv.training.distributed.processes import raise_together
from minicpmv.training.finish.master_weights import collect_adapter, collect_model
from minicpmv.training.finish.rounding import NOTHING, Kept, measure_kept, round_stochastically
from minicpmv.training.learning.lora import as_plain_lora
from minicpmv.training.learning.parts import is_lora_tensor
from minicpmv.training.loop.trainer import MiniCPMVTrainer
from minicpmv.wording import name_few

__all__ = [
    "FULLY_TRAINED",
    "AllLostError",
    "TooLargeError",
    "save_adapter",
    "save_full",
]

FULLY_TRAINED = "vpm_resampler_embedtokens.pt"
"""The official recipe's file name for the tensors that a LoRA run trained fully."""


class TooLargeError(NotFiniteError):
    """Trained weights are finite, but overflow the precision in which they are to be saved."""


class AllLostError(UsageError):
    """Weights have changed, but nothing of the change is left in the precision in which they are to be saved."""


def save_adapter(trainer: MiniCPMVTrainer, directory: Path) -> dict[str, Tensor]:
    """Write the adapter and the fully trained tensors. Every process must call it.

    The directory holds no tokenizer on purpose: PEFT's ``Auto`` classes would resize the embeddings to it.

    Returns:
        The tensors, by their names in the model that will be loaded; none on a process that writes nothing.

    Raises:
        NotFiniteError: A tensor is not finite; nothing is written.
    """
    trainer.refuse_not_finite()
    model: Any = trainer.accelerator.unwrap_model(trainer.model)
    tensors = collect_adapter(model, is_writing=trainer.args.should_save)
    assert isinstance(model, PeftModel)
    written: dict[str, Tensor] = {}

    def write() -> None:
        if trainer.args.should_save:
            written.update(_write_adapter(trainer, model, tensors, directory))

    raise_together(write)
    return written


def _write_adapter(
    trainer: MiniCPMVTrainer, model: PeftModel, tensors: dict[str, Tensor], directory: Path
) -> dict[str, Tensor]:
    """Write the collected tensors of an adapter; return them as written."""
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    tensors, changes = as_plain_lora(model, tensors)
    with _staged(directory) as staged:
        # Embeddings with LoRA are unchanged from the base; PEFT would save them as well.
        model.save_pretrained(str(staged), state_dict=tensors, save_embedding_layers=False)
        if changes:
            config = json.loads((staged / "adapter_config.json").read_text(encoding="utf-8"))
            write_json(staged / "adapter_config.json", config | changes)
        (staged / "README.md").unlink(missing_ok=True)  # PEFT's model card: an empty form
        full = {name: tensor for name, tensor in tensors.items() if name in trained and not is_lora_tensor(name)}
        torch.save(full, staged / FULLY_TRAINED)
        if trainer.base is not None:
            write_base(staged, trainer.base)
    return tensors


def save_full(
    trainer: MiniCPMVTrainer,
    directory: Path,
    *,
    base: Path,
    dtype: torch.dtype,
    rounding: str = "nearest",
    may_lose_all: bool = False,
) -> tuple[dict[str, Tensor], dict[str, Kept]]:
    """Write a complete checkpoint in the released layout. Every process must call it.

    Args:
        trainer: The trainer, after training.
        directory: Target directory.
        base: The checkpoint that training started from.
        dtype: Precision of the written tensors.
        rounding: ``nearest`` or ``stochastic``, seeded by the run's seed.
        may_lose_all: Whether to save a model that rounding turns back into its base.

    Returns:
        The tensors as written, by the model's own names, and what rounding has kept of each part's change, if anything
        was rounded; both empty on a process that writes nothing.

    Raises:
        NotFiniteError: A tensor is not finite, in training or as it would be saved; nothing is written.
        AllLostError: Rounding turns the model back into its base; nothing is written.
    """
    trainer.refuse_not_finite()
    model: Any = trainer.accelerator.unwrap_model(trainer.model)
    assert isinstance(model, PreTrainedModel)
    tensors = collect_model(trainer)
    cast = _round(tensors, dtype, rounding, seed=trainer.args.seed, wide=_stored_wide(base, model))
    cast |= {name: cast[same] for name, same in model.all_tied_weights_keys.items() if {name, same} <= cast.keys()}
    kept: dict[str, Kept] = {}

    def check() -> None:
        if trainer.args.should_save:
            _refuse_too_large(cast, dtype)
            trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
            rounded = {name: tensors[name] for name in trained if tensors[name].dtype == torch.float32 != dtype}
            if rounded:
                kept.update(measure_kept(rounded, cast, base, build_skeleton(base)))
            if not may_lose_all:
                _refuse_lost(kept, dtype)

    def write() -> None:
        if trainer.args.should_save:
            with _staged(directory) as staged:
                model.save_pretrained(str(staged), state_dict=cast)
                copy_companions(base, staged, dtype=dtype)
                state_downsample_mode(staged, getattr(model.config, "downsample_mode", None))
                dataset: Any = trainer.train_dataset
                state_film_settings(staged, film_settings_of(dataset.processor.image_processor))

    raise_together(check)
    raise_together(write)
    return (cast, kept) if trainer.args.should_save else ({}, {})


def _stored_wide(base: Path, model: Any) -> set[str]:
    """Name the tensors that stay float32 because the base has them so, and its release wants it."""
    ends = model.config.minicpmv_version.network.may_stay_float32
    return {name for name in find_float32(find_weight_files(base)) if name.endswith(ends)} if ends else set()


def _round(
    tensors: Mapping[str, Tensor], dtype: torch.dtype, rounding: str, *, seed: int, wide: Collection[str] = ()
) -> dict[str, Tensor]:
    """Cast what has another precision, one tensor at a time on the CPU: a GPU has no room for a second model."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: tensor.cpu().float()
        if name in wide
        else tensor
        if not tensor.is_floating_point() or tensor.dtype == dtype
        else round_stochastically(tensor.cpu(), dtype, generator)
        if rounding == "stochastic" and tensor.dtype == torch.float32
        else tensor.cpu().to(dtype)
        for name, tensor in tensors.items()
    }


def _refuse_too_large(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    broken = find_not_finite(tensors.items())
    if broken:
        name = str(dtype).removeprefix("torch.")
        raise TooLargeError(
            f"{name}: found {len(broken)} tensor{'s' * (len(broken) > 1)} with values beyond its range (more than "
            f"{torch.finfo(dtype).max:g}): {name_few(broken)}, expected a precision that holds the trained weights; "
            "the model is not saved\n  fix: the same command with --resume_from_checkpoint true --save_dtype float32 "
            "or bfloat16 saves it from the checkpoint of the last step"
        )


def _refuse_lost(kept: Mapping[str, Kept], dtype: torch.dtype) -> None:
    if kept and all(part.kept < NOTHING for part in kept.values()):
        name = str(dtype).removeprefix("torch.")
        shares = ", ".join(f"{part} {found.kept:.1%}" for part, found in kept.items())
        raise AllLostError(
            f"Nothing of the training survives rounding to {name}: found shares of {shares}, because updates are "
            f"smaller than the spacing of neighbouring numbers, expected at least {NOTHING:.0%} of some part; the "
            "model is not saved\n"
            "  fix: the same command with --resume_from_checkpoint true and --save_dtype float32 or --save_rounding "
            "stochastic saves it from the checkpoint of the last step; "
            f"--save_dtype {name} saves it in {name} anyway"
        )


@contextmanager
def _staged(directory: Path) -> Iterator[Path]:
    """Collect files in a separate folder, then move each complete file into place."""
    staged = directory / STAGING / "final"
    shutil.rmtree(staged, ignore_errors=True)
    with writing(staged, needed=None):
        staged.mkdir(parents=True)
        yield staged
    for path in sorted(path for path in staged.rglob("*") if path.is_file()):
        target = directory / path.relative_to(staged)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, target)
    shutil.rmtree(staged.parent)
