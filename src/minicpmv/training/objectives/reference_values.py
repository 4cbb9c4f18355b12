"""Has the reference score all answers before the first step, and keeps its values in a folder that runs share.

The reference is the model as the run starts. Which values are missing is found without a model; these records are then
planned into rows as in training. ``data.samples.answer_scores`` has the files.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset
from transformers import TrainingArguments

from minicpmv.data.batches.row_planner import RowPlanner
from minicpmv.data.samples.answer_scores import AnswerStore, KnownScores
from minicpmv.data.samples.dataset import ConversationDataset
from minicpmv.data.sources.cache import describe_software
from minicpmv.errors import UsageError
from minicpmv.models.networks.layout import Layout
from minicpmv.training.distributed.console import is_first_process, say
from minicpmv.training.distributed.engine import load_deepspeed
from minicpmv.training.distributed.processes import add_up, gather, num_processes, take_maximum, wait_for_all
from minicpmv.training.flags.declarations import RunArguments
from minicpmv.wording import counted

__all__ = ["find_scores", "score_missing"]

_MEANING = 1
"""Format version; increase it when what is stored changes."""
_AT_ONCE = 4096
"""Answers in one file: a run that is killed computes at most so many again."""
_OF_ADAPTER = (".lora_", ".modules_to_save.")

Loader = Callable[[Dataset[Any], RowPlanner], Iterable[dict[str, Any]]]


def find_scores(run: RunArguments, model: Any, args: TrainingArguments) -> KnownScores | None:
    """Open the values of this run's reference. Every process must call it.

    Args:
        run: The flags.
        model: The model as the run starts, bare or wrapped by PEFT, before an engine or a checkpoint changes it.
        args: Precision and engine.

    Returns:
        The values, or None where none are stored.

    Raises:
        UsageError: The folder cannot be made.
    """
    if not run.stores_reference or run.dry_run:
        return None
    precision = "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32"
    depends = {
        "meaning": _MEANING,
        "version": model.config.minicpmv_version.name,
        "config": {name: value for name, value in model.config.to_dict().items() if not name.startswith("_")},
        "weights": _digest_weights(model, is_base=not run.lora_weight_path and not run.changes_base),
        "computed": [precision, bool(args.tf32), bool(args.deepspeed), run.downsample_mode, *_describe_device(args)],
        "kernel": model.config.text_config._attn_implementation,
        "software": describe_software(),
    }
    digest = hashlib.sha256(json.dumps(depends, sort_keys=True, default=str).encode()).hexdigest()
    digest = gather(digest)[0]  # the first process has all the weights
    directory = Path(run.reference_cache).expanduser().absolute() / digest[:32]
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"--reference_cache: found {str(directory.parent)!r}, which cannot be created ({error.strerror}), expected "
            "a writable folder\n  fix: name another folder"
        ) from error
    store = AnswerStore(directory)
    store.open()
    return KnownScores(store=store, made_by=digest)


def _describe_device(args: TrainingArguments) -> list[str]:
    if args.device.type != "cuda":
        return [args.device.type, torch.__version__]
    return [torch.cuda.get_device_name(args.device), torch.__version__]


def _digest_weights(model: Any, *, is_base: bool) -> str:
    """Digest the weights that the reference computes with, in the precision in which they are there.

    Args:
        model: Bare or wrapped by PEFT.
        is_base: Whether a new adapter, which adds nothing yet, is left out; so all adapters share the values.
    """
    digest = hashlib.sha256()
    state = model.state_dict(keep_vars=True)
    for name, tensor in sorted((_plain(name), tensor) for name, tensor in state.items() if _counts(name, is_base)):
        sharded = hasattr(tensor, "ds_id")  # ZeRO-3
        with load_deepspeed().zero.GatheredParameters([tensor]) if sharded else nullcontext():
            if is_first_process():
                plain = tensor.detach().cpu().contiguous()
                digest.update(f"{name} {plain.dtype} {tuple(plain.shape)}".encode())
                digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _counts(name: str, is_base: bool) -> bool:
    return not is_base or not any(part in name for part in _OF_ADAPTER)


def _plain(name: str) -> str:
    """Return the name of a tensor without PEFT's modules around it."""
    for part in (".base_layer", ".original_module"):
        name = name.replace(part, "")
    return name.removeprefix("base_model.model.")


class _Scored(Dataset[bool]):
    """Whether each record of some has values."""

    def __init__(self, dataset: ConversationDataset, numbers: Sequence[int]) -> None:
        self._dataset = dataset
        self._numbers = numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, place: int) -> bool:
        return self._dataset.is_scored(self._numbers[place])


def score_missing(
    scores: KnownScores,
    datasets: Sequence[ConversationDataset],
    *,
    ask: Callable[[dict[str, Any]], Tensor],
    load: Loader,
    capacity: int,
    args: TrainingArguments,
    has_moved: bool = False,
) -> None:
    """Compute and store the values that are missing, and have the data sets look all of them up.

    Every process must call it.

    Args:
        scores: Where they are.
        datasets: The records.
        ask: Returns the log-probabilities of a batch's labelled tokens under the reference.
        load: Makes a loader of planned rows of a data set, of those of this process.
        capacity: Most tokens of a row.
        args: Number of workers, and device on which processes exchange numbers.
        has_moved: Whether the model is no longer the reference, so that nothing can be computed.

    Raises:
        UsageError: It has moved, and values are missing; or a value is not finite.
    """
    started = time.perf_counter()
    num_new = num_records = 0
    for dataset in datasets:
        dataset.scores = scores
        scores.is_naming = True
        missing = _find_missing(dataset, args)
        num_records += len(dataset)
        num_new += len(missing)
        if len(missing) and has_moved:
            raise UsageError(
                f"--reference_cache: found values of {len(dataset) - len(missing):,} of "
                f"{counted(len(dataset), 'record')} in {scores.store.directory}, expected all: the reference is the "
                "model as the run started, of which a resumed run has no copy\n"
                "  fix: restore the folder, and the data and settings that it was filled with; or start again"
            )
        if len(missing):
            _score(scores, Subset(dataset, missing.tolist()), dataset.lengths[missing], ask, load, capacity, args)
        wait_for_all()
        scores.store.open()
    scores.is_naming = False
    if num_new:
        seconds = time.perf_counter() - started
        known = num_records - num_new
        recalled = f", {known:,} were known" if known else ""
        say(f"reference: {counted(num_new, 'record')} scored in {seconds:.1f} s{recalled} ({scores.store.directory})")
    else:
        say(f"reference: all {counted(num_records, 'record')} were scored before ({scores.store.directory})")


def _find_missing(dataset: ConversationDataset, args: TrainingArguments) -> NDArray[np.int64]:
    """Return the numbers of the records without values; each process looks at its share."""
    own = list(range(args.process_index, len(dataset), num_processes()))
    is_missing = torch.zeros(len(dataset), dtype=torch.uint8)
    loader = DataLoader(
        _Scored(dataset, own), batch_size=None, num_workers=min(args.dataloader_num_workers, len(own) // 64)
    )
    for number, is_scored in zip(own, loader, strict=True):
        is_missing[number] = not is_scored
    return np.flatnonzero(take_maximum(is_missing.to(args.device)).cpu().numpy())


def _score(
    scores: KnownScores,
    records: Dataset[Any],
    lengths: NDArray[np.int32],
    ask: Callable[[dict[str, Any]], Tensor],
    load: Loader,
    capacity: int,
    args: TrainingArguments,
) -> None:
    plan = RowPlanner(lengths, capacity=capacity, num_ranks=num_processes(), shuffle=False)
    keys: list[bytes] = []
    values: list[Tensor] = []
    for batch in load(records, plan):
        layout: Layout = batch["layout"]
        names = [bytes(key) for key in batch.pop("answer_keys", None) or ()]
        found = ask(batch).float().cpu().split(list(layout.labels_of_each))
        answers = [found[sample] for sample, rank in enumerate(layout.ranks) if rank]
        keys += names
        values += answers
        assert len(keys) == len(values), "each answer has a name"
        if len(keys) >= _AT_ONCE:
            scores.store.write(keys, values)
            keys, values = [], []
    scores.store.write(keys, values)
    _refuse_not_finite(values, args)


def _refuse_not_finite(values: Sequence[Tensor], args: TrainingArguments) -> None:
    bad = sum(not bool(each.isfinite().all()) for each in values)
    if int(add_up(torch.tensor(bad, device=args.device))):
        raise UsageError(
            "reference: found log-probabilities that are not finite, expected numbers: the model that the run starts "
            "from cannot compute some answers\n  fix: --bf16 true or --fp16 false, or another --model_name_or_path"
        )
