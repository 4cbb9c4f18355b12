"""Verifies a saved model: it is loaded in a fresh process and compared with the model that was trained.

This is the run's side: it describes the live model and starts the fresh process. The comparison itself is in
``reload``. Everything is saved by now, so a signal ends the run immediately.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minicpmv.data.samples.collation import Collator
from minicpmv.data.samples.dataset import ConversationDataset
from minicpmv.errors import CheckpointError, DataError
from minicpmv.models.checkpoints.reference import VERIFICATION, Reference, digest_tensors, write_reference
from minicpmv.terminal.waiting import waiting
from minicpmv.training.checkpoints.checkpoint_size import num_elements
from minicpmv.training.distributed.console import notice, say
from minicpmv.training.distributed.processes import gather, raise_together, wait_for_all
from minicpmv.training.finish.reload import describe_verification
from minicpmv.training.finish.rounding import Kept, round_as_saved
from minicpmv.training.flags.declarations import RunArguments
from minicpmv.training.loop.interruption import Interruption
from minicpmv.training.loop.trainer import MiniCPMVTrainer

__all__ = ["choose_batch", "verify_saved"]

_MOST_RECORDS = 4
_LOOKED = 100
"""Number of records among which the batch looks for one with an image."""

# Relative to the loss, or to 1 where it is less. Measured on all releases: float32 differs by 1e-7 where LoRA was
# converted and by 0 elsewhere, which leaves room for another device's order of sums; rounding differs by up to 6e-3.
_EXACT = (1e-4, "float32 throughout: the same numbers in another order")
_ROUNDED = (3e-2, "half precision, in training or as saved: weights and activations are rounded differently")

# Variables of a launcher and of accelerate, removed because the fresh process belongs to no group.
_OF_THE_GROUP = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")


def verify_saved(
    trainer: MiniCPMVTrainer,
    run: RunArguments,
    saved: dict[str, Tensor],
    kept: Mapping[str, Kept],
    *,
    dataset: ConversationDataset,
    collator: Collator,
    interruption: Interruption,
) -> None:
    """Load the saved model in a fresh process, and verify that it is the trained one. Every process must call it.

    The live model is rounded as it was saved, since what rounding loses is told apart, and released before the other
    process loads, which needs its memory.

    Args:
        trainer: The trainer, whose model was saved in its output directory.
        run: The flags.
        saved: The saved tensors, by their names in the loaded model; emptied here.
        kept: What rounding has kept of each part's change, to be reported with the result.
        dataset: The records on which the losses are compared.
        collator: Pads them to a batch.
        interruption: Stops the run immediately from here on.

    Raises:
        CheckpointError: The models differ, or the process could not compare them.
        DataError: A record has changed since it was checked.
        DiskError: There is no space for the reference.
    """
    directory, is_writing = Path(trainer.args.output_dir or ""), trainer.args.should_save
    again = f"python -m minicpmv.training.finish.reload {directory}"
    interruption.act_at_once(f"everything is saved in {directory}, but not verified")
    dtypes = {name: _name(tensor.dtype) for name, tensor in saved.items()}
    tensors = {name: (dtypes[name], digest) for name, digest in digest_tensors(saved, dtypes).items()}
    precisions = {tensor.dtype for tensor in saved.values() if tensor.is_floating_point()}
    saved.clear()  # may be a second copy of the model
    batch, records = choose_batch(dataset, collator, most_tokens=run.model_max_length)
    if run.save_rounding == "nearest":
        model: Any = trainer.model
        round_as_saved(model, gather(dtypes)[0])  # the first process alone has them
    wait_for_all()  # for the process that digested all weights
    loss = trainer.measure(batch)

    def write() -> None:
        if is_writing:
            reference = _describe(trainer, run, tensors, precisions, records, loss)
            reference = replace(reference, rounding={part: asdict(each) for part, each in kept.items()})
            write_reference(directory, reference, batch)

    def ask() -> None:
        if is_writing:
            with waiting("verifying what was saved, in a process of its own"):
                _ask_fresh_process(directory, cache_dir=run.cache_dir)

    raise_together(write)
    interruption.act_at_once(f"everything is saved in {directory}, but not verified yet: {again}")
    _release(trainer)
    raise_together(ask)
    interruption.act_at_once(f"everything is saved in {directory}")


def choose_batch(
    dataset: ConversationDataset, collator: Collator, *, most_tokens: int
) -> tuple[dict[str, Tensor], list[str]]:
    """Collate the first few records, one with an image among them; the first may exceed ``most_tokens``.

    Of answers that are compared, the better ones: whoever loads the model computes their loss without a reference.
    """
    dataset = dataset if dataset.comparison.kind == "conversation" else dataset.as_conversations()
    chosen: dict[str, dict[str, Tensor]] = {}
    longest = 0
    for number in _in_order(dataset)[: 2 * _MOST_RECORDS]:
        item = dataset[number]
        widest = max(longest, len(item["input_ids"]))
        if not len(item["input_ids"]) or (chosen and widest * (len(chosen) + 1) > most_tokens):
            continue
        chosen[dataset.records[number].where()], longest = item, widest
        if len(chosen) == _MOST_RECORDS:
            break
    return collator.join(list(chosen.values())), list(chosen)


def _in_order(dataset: ConversationDataset) -> list[int]:
    """Return the numbers of the first records, one with an image in front."""
    looked = list(range(min(len(dataset), _LOOKED)))
    pictured = next((number for number in looked if _has_image(dataset, number)), 0)
    return sorted(looked, key=lambda number: number != pictured)


def _has_image(dataset: ConversationDataset, number: int) -> bool:
    try:
        return bool(dataset.records[number].images)
    except DataError:  # with --check_first false a record may be faulty, and is skipped
        return False


def _describe(
    trainer: MiniCPMVTrainer,
    run: RunArguments,
    tensors: dict[str, tuple[str, str]],
    precisions: set[torch.dtype],
    records: list[str],
    loss: float,
) -> Reference:
    model: Any = trainer.model
    args = trainer.args
    half = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None
    autocast = half if not trainer.is_deepspeed_enabled else None
    rounded_to = half if trainer.is_deepspeed_enabled and not run.q_lora else None
    is_exact = {model.dtype, *precisions} == {torch.float32} and half is None and not args.tf32
    tolerance, reason = _EXACT if is_exact else _ROUNDED
    trained = (name for name, parameter in model.named_parameters() if parameter.requires_grad)
    return Reference(
        records=records,
        loss=loss,
        tolerance=tolerance * max(1.0, abs(loss)),
        reason=reason,
        dtypes=_exact_precisions(precisions, trained_in=model.dtype),
        autocast=None if autocast is None else _name(autocast),
        rounded_to=None if rounded_to is None else _name(rounded_to),
        in_four_bits=run.q_lora,
        num_weights=sum(num_elements(parameter) for parameter in model.parameters()),
        tensors=tensors,
        carried={} if run.use_lora or model.carried is None else model.carried.facts(),
        # lora_bias all also trains biases in the unused originals of fully trained modules.
        not_saved=[name for name in trained if name not in tensors and ".original_module." not in name],
    )


def _exact_precisions(saved: set[torch.dtype], *, trained_in: torch.dtype) -> list[str]:
    """Name the precisions that hold all saved tensors exactly, the live model's first if it is one of them."""
    exact = [torch.float32, *(saved if len(saved) == 1 else ())]
    return list(dict.fromkeys(map(_name, sorted(exact, key=lambda dtype: dtype != trained_in))))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _ask_fresh_process(directory: Path, *, cache_dir: str | None) -> None:
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in _OF_THE_GROUP and not name.startswith(("ACCELERATE_", "TORCHELASTIC_", "ROLE_"))
    }
    if cache_dir:
        environment["HF_HUB_CACHE"] = cache_dir
    command = [sys.executable, "-m", "minicpmv.training.finish.reload", str(directory)]
    # An exception here, such as a signal's, also ends that process.
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if not (directory / VERIFICATION).is_file():
        raise CheckpointError(_unanswered(directory, ended))
    result: dict[str, Any] = json.loads((directory / VERIFICATION).read_text(encoding="utf-8"))
    told = describe_verification(result, directory)
    if result["verdict"] == "differs":
        raise CheckpointError(told)
    (say if result["verdict"] == "verified" else notice)(told)


def _unanswered(directory: Path, ended: subprocess.CompletedProcess[str]) -> str:
    last = ended.stderr.strip().splitlines()[-1:] or ["no message"]
    return (
        f"{directory}: found that the process that reloads it ended with {ended.returncode} ({last[0]}), expected "
        "a result; the model is saved, but not verified\n"
        f"  fix: python -m minicpmv.training.finish.reload {directory} tries again (-9: out of memory)"
    )


def _release(trainer: MiniCPMVTrainer) -> None:
    """Free the memory of model, gradients and optimizer, whatever still refers to them."""
    model: Any = trainer.model
    for parameter in model.parameters():
        parameter.grad = None
        parameter.data = parameter.data.new_empty(0)
        if hasattr(parameter, "ds_tensor"):  # this process's shard under ZeRO-3
            parameter.ds_tensor.data = parameter.ds_tensor.data.new_empty(0)
    state: Any = getattr(trainer.optimizer, "state", None)
    if state:
        state.clear()
    trainer.accelerator.free_memory()
    loose: Any = trainer
    loose.optimizer = loose.lr_scheduler = loose.deepspeed = loose.model_wrapped = None
    loose.callback_handler.optimizer = loose.callback_handler.lr_scheduler = None
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
