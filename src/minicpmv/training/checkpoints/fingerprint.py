"""Compares what decides the numbers of a run, data, batches, what learns and how, with the run that is resumed.

Resuming with different settings would mix two runs, or ignore the setting, as transformers does with a learning rate:
the checkpoint holds the schedule. The length of a run may change. Which settings count is declared with each of them
(``training.flags.fields.Resume``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import TrainingArguments

from minicpmv.errors import CheckpointError
from minicpmv.models.adapters.base_identity import BaseIdentity
from minicpmv.training.checkpoints.manifest import MANIFEST
from minicpmv.training.flags.catalogue import all_settings
from minicpmv.training.flags.declarations import RunArguments
from minicpmv.training.flags.fields import Resume

__all__ = ["find_changes", "find_extension", "find_other_base", "find_other_lengths", "take_fingerprint"]

_DATA = "data"
_BASE = "base_model"
_LENGTHS = "record_lengths"


def take_fingerprint(
    run: RunArguments,
    args: TrainingArguments,
    base: BaseIdentity,
    data: Sequence[Mapping[str, Any]],
    lengths: NDArray[np.int32] | None,
    *,
    compilation: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Collect as JSON what decides the numbers of a run.

    Args:
        run: The flags, with every switch resolved.
        args: As training has them.
        base: What the run starts from.
        data: Every source of training data with the digest of its content, as ``run.json`` has it.
        lengths: Tokens of each record, from which batches are planned; None if they are not known.
        compilation: Options for ``torch.compile``; None: nothing is compiled.
    """
    stated = {**args.to_dict(), **vars(run)}  # enumerations of transformers as plain words
    fingerprint = {name: stated.get(name) for name in sorted(_named("same") | _named("length"))}
    fingerprint["torch_compile"] = compilation
    fingerprint[_BASE] = asdict(base)
    fingerprint[_LENGTHS] = None if lengths is None else hashlib.sha256(lengths.astype("<i4").tobytes()).hexdigest()
    fingerprint[_DATA] = [{"sha256": source["sha256"], "weight": source.get("weight", 1)} for source in data]
    return json.loads(json.dumps(fingerprint, default=str))


@cache
def _named(resume: Resume) -> frozenset[str]:
    """Return the names of all settings of which resuming asks this."""
    return frozenset(name for name, setting in all_settings().items() if setting.resume == resume)


def find_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Name each setting that has changed, with both values."""
    compared = (before.keys() | now.keys()) - {*_named("length"), _BASE, _LENGTHS}
    different = [name for name in sorted(compared) if before.get(name) != now.get(name)]
    return [
        f"--{name}: {_word(before.get(name))} then, {_word(now.get(name))} now"
        if name != _DATA
        else "--data_path: the files have another content now, or other weights"
        for name in different
    ]


def find_other_base(before: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, bool] | None:
    """Name both bases if they are not one, and say whether one's weights have their places in the other.

    Raises:
        CheckpointError: The manifest names its base model in a way that no run does.
    """
    try:
        then, here = BaseIdentity(**before[_BASE]), BaseIdentity(**now[_BASE])
    except (KeyError, TypeError) as error:
        raise CheckpointError(
            f"{MANIFEST}: found a base model that no run writes down ({error}), expected its name and digests\n"
            "  fix: resume from another checkpoint"
        ) from error
    difference = then.find_difference(here)
    if difference is None:
        return None
    return f"--model_name_or_path: {then} then, {here} now, {difference}", then.shapes == here.shapes


def find_other_lengths(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Say that records have other lengths than they had, and so other batches; None if not, or if one does not know."""
    if None in (before[_LENGTHS], now[_LENGTHS]) or before[_LENGTHS] == now[_LENGTHS]:
        return None
    return "records have other numbers of tokens than then, so the rest of the epoch has other batches"


def find_extension(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Say what differs in the length of the run."""
    return [
        f"--{name}: {_word(before[name])} then, {_word(now[name])} now; from here on the schedule is the new run's"
        for name in sorted(_named("length"))
        if before.get(name) != now.get(name)
    ]


def _word(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False).strip('"')
