"""Computes how much shared memory the heaviest batch takes, and how many data workers fit.

A worker puts its batches into ``/dev/shm``, of which Docker gives a container 64 MiB. So the space is computed before
any worker starts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from transformers import TrainingArguments

from minicpmv.data.batches.row_planner import RowPlanner
from minicpmv.data.samples.dataset import ConversationDataset
from minicpmv.machine.value import Machine
from minicpmv.machine.workers import bytes_in_flight, workers_that_fit
from minicpmv.models.configuration import MiniCPMVConfig
from minicpmv.training.inputs.planned_batches import BatchPlan

__all__ = ["Workers", "bytes_of_pictures", "heaviest_batch", "heaviest_row", "resolve_workers"]

_BYTES_PER_TOKEN = 36
"""Upper bound, padding included: 8 each for id, label, mask and the position of a label or image token, 4 for a weight.
"""
_BYTES_PER_BATCH = 2**16
"""Overhead: each tensor takes whole pages, and a batch has a dozen tensors."""
_CHANNELS = 3
_ROUNDED_UP = 1.35
"""Largest ratio of a slice's patches to their nominal number: its sides are rounded to whole patches, and a very flat
slice has two of them instead of one and a half."""
_PREFETCHED = 2
"""Batches that a worker prepares ahead, by torch's default."""


class Workers(NamedTuple):
    """Numbers of data workers of each process."""

    training: int
    evaluation: int
    """The training workers wait meanwhile and keep the batches that they have made."""


def resolve_workers(
    machine: Machine,
    args: TrainingArguments,
    config: MiniCPMVConfig,
    *,
    train: ConversationDataset,
    plan: BatchPlan,
    validation: Mapping[str, ConversationDataset],
    has_features: bool,
) -> tuple[Workers, list[str]]:
    """Choose how many data workers have room for their batches; return notices where fewer run than were asked for.

    Args:
        machine: Its shared memory is the limit.
        args: Number of workers asked for, and batch sizes.
        config: The model's config.
        train: The training data.
        plan: The plan of its batches.
        validation: The validation sets, measured one after the other.
        has_features: Whether batches may carry the tower's features instead of pixels.
    """
    meant, prefetched = args.dataloader_num_workers, args.dataloader_prefetch_factor or _PREFETCHED
    if not meant:
        return Workers(0, 0), []
    of_sets = [
        heaviest_batch(
            bytes_of_pictures(each, config, has_features=has_features),
            each.lengths,
            size=args.per_device_eval_batch_size,
        )
        for each in validation.values()
    ]
    batches = {
        "training": _heaviest_of_training(train, plan, args, config, has_features=has_features),
        "evaluation": max(of_sets, default=0),
    }
    found: dict[str, int] = {}
    fewer: list[str] = []
    reason = ""
    for what, size in batches.items():
        choice = workers_that_fit(machine, asked=meant, prefetched=prefetched, batch_bytes=size)
        found[what] = choice.value
        if choice.value < meant:
            fewer.append(f"{choice.value} for {what}")
            reason = reason or choice.reason
        taken = bytes_in_flight(choice.value, prefetched=prefetched, batch_bytes=size) * machine.num_local_processes
        if machine.shared_bytes is not None:
            machine = replace(machine, shared_bytes=max(0, machine.shared_bytes - taken))
    notices = [
        f"data workers in each process: {' and '.join(fewer)} instead of {meant}, because {reason}; "
        "`docker run --ipc=host`, or `--shm-size 16g`, gives more, and --dataloader_num_workers 0 asks for none"
    ]
    return Workers(**found), notices if fewer else []


def _heaviest_of_training(
    train: ConversationDataset, plan: BatchPlan, args: TrainingArguments, config: MiniCPMVConfig, *, has_features: bool
) -> int:
    pictures = bytes_of_pictures(train, config, has_features=has_features)
    if isinstance(plan, RowPlanner):
        return heaviest_row(pictures, train.lengths, capacity=plan.capacity)
    return heaviest_batch(pictures, train.lengths, size=args.per_device_train_batch_size)


def bytes_of_pictures(
    dataset: ConversationDataset, config: MiniCPMVConfig, *, has_features: bool
) -> npt.NDArray[np.float64]:
    """Bound the bytes that the pictures of each record take in a batch.

    Args:
        dataset: The records and their lengths.
        config: The model's config.
        has_features: Whether batches may carry the tower's features instead of pixels.
    """
    slicing = dataset.processor.image_processor
    of_patch = _CHANNELS * slicing.patch_size**2  # one byte per value
    if has_features:
        of_patch = max(of_patch, config.vision_config.hidden_size * np.dtype(np.float32).itemsize)
    side = slicing.scale_resolution / slicing.patch_size
    patches_per_token = _ROUNDED_UP * config.token_rule.patches_each(side)
    return np.asarray(dataset.num_image_tokens * (patches_per_token * of_patch), dtype=np.float64)


def heaviest_batch(pictures: npt.NDArray[np.float64], lengths: npt.NDArray[np.int32], *, size: int) -> int:
    """Bound the bytes of a padded batch in any epoch: the heaviest pictures, in rows as long as the longest record.

    Args:
        pictures: Bytes of each record's pictures.
        lengths: Tokens of each record.
        size: Records of a batch.
    """
    heaviest = np.sort(pictures)[-size:]
    padded = len(heaviest) * int(lengths.max(initial=0))
    return math.ceil(heaviest.sum()) + padded * _BYTES_PER_TOKEN + _BYTES_PER_BATCH


def heaviest_row(pictures: npt.NDArray[np.float64], lengths: npt.NDArray[np.int32], *, capacity: int) -> int:
    """Bound the bytes of a packed row in any epoch: filled with the records of most bytes per token, the last cut off.

    Args:
        pictures: Bytes of each record's pictures.
        lengths: Tokens of each record.
        capacity: Tokens of a row.
    """
    order = np.argsort(-pictures / lengths)
    ends = np.cumsum(lengths[order], dtype=np.int64)
    taken = np.clip(capacity - (ends - lengths[order]), 0, lengths[order])
    heaviest = math.ceil((pictures[order] * taken / lengths[order]).sum())
    return heaviest + int(taken.sum()) * _BYTES_PER_TOKEN + _BYTES_PER_BATCH
