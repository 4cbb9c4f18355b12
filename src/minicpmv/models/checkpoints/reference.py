"""Records what a trained model was before it was saved: its loss on a few records, and the digest of each saved tensor.

The run writes it, and whoever loads the saved model compares with it. It is one file,
``verification/reference.safetensors``: the records as tensors, the rest in its header. It has a folder of its own,
because other engines take every ``*.safetensors`` next to a model for weights.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from minicpmv.errors import CheckpointError
from minicpmv.files.atomic_files import STAGING
from minicpmv.files.disk_space import writing

__all__ = ["REFERENCE", "VERIFICATION", "Reference", "digest_tensors", "discard", "read_reference", "write_reference"]

VERIFICATION = "verification.json"
"""Name of the result in a run's directory."""
REFERENCE = "verification/reference.safetensors"
"""Name of the file that the verification compares with."""
_HEADER = "reference"


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """What is to be found again in the model that is loaded anew."""

    records: list[str]
    """Those of the batch, by name."""
    loss: float
    """Of the batch, in evaluation mode."""
    tolerance: float
    """By how much the loss may differ."""
    reason: str
    """Where that number comes from."""
    dtypes: list[str]
    """Precisions that hold every saved tensor exactly, the one nearest to the training first."""
    autocast: str | None
    """Precision in which the training computed with weights of another one."""
    in_four_bits: bool
    """Whether the base was loaded by ``--q_lora``."""
    num_weights: int
    """Of the whole model."""
    tensors: dict[str, tuple[str, str]]
    """Name of each saved tensor -> its precision and the digest of its values."""
    not_saved: list[str]
    """Tensors that were trained and are not among them."""
    carried: dict[str, tuple[str, list[int], str]] = field(default_factory=dict)
    """Name of each tensor that was copied as bytes -> precision, shape and digest of the base's (``carried.Facts``)."""
    rounded_to: str | None = None
    """Precision to which DeepSpeed rounds the weights that it computes with; None: it computes with those saved."""
    rounding: dict[str, dict[str, float]] = field(default_factory=dict)
    """Part -> what rounding has kept of its change (``rounding.Kept``); empty where nothing was rounded."""


def digest_tensors(tensors: Mapping[str, Tensor], dtypes: Mapping[str, str]) -> dict[str, str]:
    """Compute the sha256 of each tensor's values, in a stated precision.

    A tensor that was widened when it was loaded has the digest that it had before: widening loses nothing.

    Args:
        tensors: By name, anywhere.
        dtypes: The precision of each.
    """

    def digest(name: str) -> str:
        tensor = tensors[name].detach().to("cpu", getattr(torch, dtypes[name])).contiguous()
        return hashlib.sha256(tensor.flatten().view(torch.uint8).numpy().data).hexdigest()

    # Threads: hashing lets go of the interpreter. Each holds one tensor.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
        return dict(zip(dtypes, threads.map(digest, dtypes), strict=True))


def write_reference(directory: Path, reference: Reference, batch: Mapping[str, Tensor]) -> None:
    """Store the batch, and what the model said to it.

    Raises:
        DiskError: There is no room.
    """
    final = directory / REFERENCE
    staged = directory / STAGING / final.parent.name
    header = {_HEADER: json.dumps(dataclasses.asdict(reference), ensure_ascii=False)}
    with writing(staged, needed=None):
        staged.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.contiguous() for name, tensor in batch.items()}, staged / final.name, metadata=header)
    discard(directory)
    os.replace(staged, final.parent)
    staged.parent.rmdir()


def read_reference(directory: Path) -> tuple[Reference, dict[str, Tensor]]:
    """Return what was stored.

    Raises:
        CheckpointError: There is nothing, or it is damaged.
    """
    file = directory / REFERENCE
    try:
        with safe_open(file, framework="pt") as opened:
            stated: dict[str, Any] = json.loads((opened.metadata() or {})[_HEADER])
            batch = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  it is no dict
        return Reference(**stated), batch
    except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{file}: found nothing to compare with ({error}), expected what a run with --verify_saved true leaves\n"
            "  fix: name the directory of such a run"
        ) from error


def discard(directory: Path) -> None:
    """Delete an earlier run's reference and verification, which would be taken for this one's."""
    (directory / VERIFICATION).unlink(missing_ok=True)
    shutil.rmtree((directory / REFERENCE).parent, ignore_errors=True)
