"""Caches a frozen vision tower's features on disk (``--vision_cache``): each image is computed once, then read.

Decides whether features can be cached, makes their cache key, and stores what the model computes while it trains.
The data set looks them up (``data.samples.cached_features``); ``data.samples.feature_store`` has the files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from itertools import islice
from pathlib import Path
from threading import Semaphore
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from minicpmv.data.samples.cached_features import FeatureKind, KnownFeatures
from minicpmv.data.samples.dataset import ConversationDataset
from minicpmv.data.samples.feature_store import FeatureStore
from minicpmv.errors import UsageError
from minicpmv.models.networks.layout import Layout
from minicpmv.processing.image_processor import MiniCPMVImageProcessor
from minicpmv.training.distributed.console import is_first_process, notice
from minicpmv.training.distributed.engine import load_deepspeed
from minicpmv.training.distributed.processes import add_up, gather
from minicpmv.training.flags.declarations import RunArguments
from minicpmv.training.learning.lora import is_named, modules_to_save, wanted_targets
from minicpmv.training.learning.parts import part_of, parts_of
from minicpmv.wording import is_off, is_on

__all__ = ["FeatureWriter", "advise", "resolve_vision_cache", "use_vision_cache"]

_DEFAULT_PLACE = "~/.cache/minicpmv/vision"
_MEANING = 1
"""Cache format version; increase it when the computation of tower or resampler changes."""
_TO_WRITE = 4
"""Length of the write queue, in batches; training waits when it is full."""
_VOLATILE = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")


# --------------------------------------------------------------------------------------------------------------- flags


def resolve_vision_cache(run: RunArguments, model: nn.Module, *, given: frozenset[str]) -> RunArguments:
    """Resolve the folder of ``--vision_cache``, and create it; return the settings with its path.

    Args:
        run: The settings; which parts are trained is already resolved.
        model: The base model; its weights may be on the ``meta`` device.
        given: Names of all flags that were given.

    Raises:
        UsageError: The tower is trained, so that nothing can be cached; or the folder cannot be created.
    """
    if is_off(run.vision_cache or ""):
        if "vision_cache_gb" in given:
            raise UsageError(
                "--vision_cache_gb: found without --vision_cache, expected both\n  fix: add it, or remove this flag"
            )
        return replace(run, vision_cache=None)
    if tower_learns(run, model):
        raise UsageError(
            f"--vision_cache {run.vision_cache}: found a vision tower that is trained, so its features change with "
            "every step, expected a frozen one\n"
            "  fix: add --tune_vision false (with LoRA also: no vision layers in --lora_target_modules, and no "
            "--lora_bias all), or remove --vision_cache"
        )
    place = _DEFAULT_PLACE if is_on(str(run.vision_cache)) else str(run.vision_cache)
    directory = Path(place).expanduser().absolute()
    try:
        if not run.dry_run:
            directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"--vision_cache: found {str(directory)!r}, which cannot be created ({error.strerror}), expected a "
            "writable folder\n"
            "  fix: name another folder"
        ) from error
    return replace(run, vision_cache=str(directory))


def tower_learns(run: RunArguments, model: nn.Module) -> bool:
    """Return whether the resolved settings train anything in the vision tower."""
    if run.tune_vision or (run.use_lora and run.lora_bias == "all"):
        return True
    if not run.use_lora:
        return False
    names, parts = [name for name, _ in model.named_modules()], parts_of(model)
    full = [name for module in modules_to_save(run, parts) for name in names if is_named(name, module)]
    return any(part_of(f"{name}.", parts) == "vision tower" for name in (*full, *wanted_targets(model, run)))


def advise(run: RunArguments, model: nn.Module, *, has_images: bool, num_epochs: float) -> str | None:
    """Recommend the flag where it would save work; return None elsewhere."""
    if run.vision_cache or not has_images or num_epochs <= 1 or _trains(model, "vision tower"):
        return None
    return (
        "the frozen vision tower computes every image again in each epoch; with --vision_cache true it computes each "
        "image once, for all runs"
    )


# -------------------------------------------------------------------------------------------------------- what depends


def find_features(
    run: RunArguments,
    model: Any,
    image_processor: MiniCPMVImageProcessor,
    args: TrainingArguments,
    *,
    has_films: bool = False,
) -> KnownFeatures:
    """Find the cache of features for this run's frozen modules. Every process must call it.

    Args:
        run: The flags; ``vision_cache`` names a folder.
        model: Bare or wrapped by PEFT, with everything that is trained enabled.
        image_processor: The checkpoint's.
        args: Precision in which the modules compute.
        has_films: Whether the data may have films.
    """
    assert not _trains(model, "vision tower"), "resolve_vision_cache has refused it"
    # Where slices have unequal numbers of tokens, only the tower's rows are counted by the plan of a picture.
    is_uneven = model.config.token_rule.is_uneven
    # Blocks that frames share (4.5) have no slice of their own; their frames are what the tower made of each.
    shares_blocks = has_films and model.config.minicpmv_version.reading.temporal
    is_read = is_uneven or shares_blocks or _trains(model, "resampler")
    kind: FeatureKind = "tower_features" if is_read else "image_features"
    config, base = model.config, _bare(model)
    depends: dict[str, Any] = {
        "meaning": _MEANING,
        "version": config.minicpmv_version.name,
        "vision": {key: value for key, value in config.vision_config.to_dict().items() if key not in _VOLATILE},
        "normalised": [image_processor.mean, image_processor.std],
        "computed": [args.device.type, "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32", bool(args.tf32)],
        "tower": _digest_weights(base.tower),
    }
    if is_uneven:  # one grid of patches, another path through the tower
        depends["token_side"] = model.config.token_rule.side
    if kind == "image_features":
        depends["resampler"] = _digest_weights(base.connector)
    digest = hashlib.sha256(json.dumps(depends, sort_keys=True, default=str).encode()).hexdigest()
    assert run.vision_cache, "settled"
    return KnownFeatures(
        store=FeatureStore(Path(run.vision_cache), max_bytes=int(run.vision_cache_gb * 1e9)),
        kind=kind,
        made_by=digest,
        patches_each=_count_patches_each(base),
        attends_padding=config.minicpmv_version.network.vision_positions == "row",
    )


def _count_patches_each(model: Any) -> int:
    """Count the patches that the tower makes one feature of, by a slice that every release can merge."""
    side = model.config.token_rule.side or 1
    ((rows, columns),) = model.sizes_seen([(side, side)])
    return side**2 // (rows * columns)


def _bare(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "peft_config") else model


def _trains(model: nn.Module, part: str) -> bool:
    parts = parts_of(model)
    return any(parameter.requires_grad and part_of(name, parts) == part for name, parameter in model.named_parameters())


def _digest_weights(module: nn.Module) -> str:
    """Digest weights as they are in memory: those that compute, in the precision in which they compute.

    Rank 0 digests; the others help to gather where weights are sharded.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict(keep_vars=True).items()):
        sharded = hasattr(tensor, "ds_id")  # ZeRO-3
        with load_deepspeed().zero.GatheredParameters([tensor]) if sharded else nullcontext():
            if is_first_process():
                plain = tensor.detach().cpu().contiguous()
                digest.update(f"{name} {plain.dtype} {tuple(plain.shape)}".encode())
                digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return gather(digest.hexdigest())[0]


# ------------------------------------------------------------------------------------------------------------- storing


class FeatureWriter(TrainerCallback):
    """Watches the frozen modules of a model, and stores the features of images that were not cached.

    A background thread writes the files. All of them are written before an epoch begins, so that its data set finds
    them.

    Args:
        model: Bare or wrapped by PEFT.
        known: The cache that features are written to.
        datasets: The data sets that look features up in it.
    """

    def __init__(self, model: Any, known: KnownFeatures, datasets: Sequence[ConversationDataset] = ()) -> None:
        self._known = known
        bare = _bare(model)
        self._reader = bare.connector
        watched = bare.tower if known.kind == "tower_features" else bare.connector
        self._hook = watched.register_forward_hook(self._take)
        self._datasets = datasets
        for dataset in datasets:
            dataset.known = known
        self._expected: list[tuple[str, int]] = []
        """Key and number of rows of each uncached image in the current batch."""
        self._writes = True
        self._thread: ThreadPoolExecutor | None = None
        self._free = Semaphore(_TO_WRITE)
        self._slices = [0, 0]
        """Number of slices read from the cache, and of slices computed."""

    def expect(self, batch: dict[str, Any]) -> None:
        """Remove the keys of images to store from a batch; the model does not read them."""
        keys, slices = batch.pop("picture_keys", None), batch.pop("slices_per_picture", None)
        self._expected = []
        layout = batch["layout"]
        if layout.known is None:
            return
        num_unseen = 0
        if keys is not None and slices is not None:
            num_unseen = sum(slices)
            named = [bytes(key).hex() for key in keys]
            self._expected = list(zip(named, self._rows(layout, slices), strict=True))
        self._slices[0] += len(layout.known) - num_unseen
        self._slices[1] += num_unseen

    def _rows(self, layout: Layout, slices: Sequence[int]) -> list[int]:
        """Return the number of rows of each uncached image in the output of the watched module."""
        if self._known.kind == "image_features":
            return list(slices)
        assert layout.known is not None, "called only where images are looked up"
        sizes = zip(layout.sizes, layout.known, strict=True)
        unseen = (self._known.count_rows(size) for size, known in sizes if not known)
        return [sum(islice(unseen, count)) for count in slices]

    def _take(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        expected, self._expected = self._expected, []
        if not expected or not self._writes:
            return
        features = self._as_read(output.detach()).cpu()
        assert len(features) == sum(rows for _, rows in expected), "the data set names exactly the uncached images"
        if self._thread is None:
            self._thread = ThreadPoolExecutor(max_workers=1)
        self._free.acquire()
        self._thread.submit(self._store, expected, features)

    def _as_read(self, features: Tensor) -> Tensor:
        """Round features as the next layer would do before it computes, so that its result is the same, bit for bit.

        Under autocast a linear layer rounds. A resampler without one, or with LoRA on it, reads unrounded features.
        """
        device = features.device.type
        projects = self._known.kind == "tower_features" and type(getattr(self._reader, "kv_proj", None)) is nn.Linear
        return (
            features.to(torch.get_autocast_dtype(device))
            if projects and torch.is_autocast_enabled(device)
            else features
        )

    def _store(self, expected: Sequence[tuple[str, int]], features: Tensor) -> None:
        try:
            for (key, _), part in zip(expected, features.split([rows for _, rows in expected]), strict=True):
                if self._writes and not self._known.store.write(key, part):
                    bound = self._known.store.max_bytes / 1e9
                    self._stop(
                        f"its {bound:g} GB are full of this run's own features; a larger --vision_cache_gb holds more"
                    )
        except OSError as error:
            self._stop(f"{error.strerror or error}")
        finally:
            self._free.release()

    def _stop(self, reason: str) -> None:
        self._writes = False
        notice(f"--vision_cache: {self._known.store.directory}: nothing more is stored, the run goes on: {reason}")

    def wait(self) -> None:
        """Wait until everything is written, and end the thread, so that workers can be forked safely."""
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Wait until the features of the last epoch are on the disk, where this one reads them."""
        self.wait()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Wait until all features are on the disk."""
        self.wait()

    def finish(self, device: torch.device) -> str:
        """Stop looking up and storing features. Every process must call it.

        Args:
            device: Device on which processes exchange numbers.

        Returns:
            A line with the numbers of slices read and computed.
        """
        self.wait()
        self._hook.remove()
        for dataset in self._datasets:
            dataset.known = None
        known, computed = add_up(torch.tensor(self._slices, device=device)).tolist()
        return f"vision cache {self._known.store.directory}: {known:,} slices read, {computed:,} computed"


def use_vision_cache(
    run: RunArguments, model: Any, datasets: Sequence[ConversationDataset | None], args: TrainingArguments
) -> FeatureWriter | None:
    """Have data sets look up features, and the model's stored; return None without ``--vision_cache``."""
    if run.vision_cache is None:
        return None
    present = [dataset for dataset in datasets if dataset is not None]
    has_films = any(dataset.may_have_films for dataset in present)
    known = find_features(run, model, present[0].processor.image_processor, args, has_films=has_films)
    return FeatureWriter(model, known, present)
