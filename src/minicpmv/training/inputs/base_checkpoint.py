"""Opens the base checkpoint: its version, its processor and its weights in the right precision."""

from __future__ import annotations

import importlib.util
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedModel, TrainingArguments

from minicpmv.errors import CheckpointError, ConfigError, UsageError
from minicpmv.machine.installed import extra, install_command
from minicpmv.models.checkpoints.carried import Carried
from minicpmv.models.checkpoints.companions import num_bytes_of_folders
from minicpmv.models.checkpoints.downsampling import mode_options, refuse_unknown_mode
from minicpmv.models.configuration import read_model_config
from minicpmv.models.skeleton import load_weights
from minicpmv.releases.directories import SMALL_FILES, find_directory, name_to_load
from minicpmv.releases.model_files import check_model_files, read_config
from minicpmv.releases.table import LLM_TYPES, Version, detect_version
from minicpmv.terminal.waiting import waiting
from minicpmv.training.distributed.console import is_first_process, notice, say
from minicpmv.training.distributed.processes import raise_together
from minicpmv.training.flags.declarations import RunArguments
from minicpmv.training.learning.lora import quantization

__all__ = ["BaseCheckpoint", "check_weights", "dtype_to_save", "load_base", "open_base", "stated_dtype"]

_ASKED_BY = "--model_name_or_path"


class BaseCheckpoint(NamedTuple):
    """A base checkpoint without its weights."""

    path: Path
    config: dict[str, Any]
    """Its parsed ``config.json``, with the ``downsample_mode`` of the run."""
    version: Version


def open_base(run: RunArguments) -> BaseCheckpoint:
    """Find the base checkpoint and read its config and version.

    Raises:
        CheckpointError: There is none, or it is broken or of no known version.
        UsageError: ``--llm_type`` means another version, or the version has no such ``--downsample_mode``.
    """
    path = find_base(run)
    config = read_config(path)
    version = check_llm_type(run.llm_type, config)
    refuse_unknown_mode(run.downsample_mode, version, asked_by="--downsample_mode")
    folders = version.network.whole_folders
    if folders and not run.use_lora and not Path(run.model_name_or_path).expanduser().is_dir():
        wanted = [f"{folder}/*" for folder in folders]  # the small files were fetched, and these hold others
        find_directory(run.model_name_or_path, asked_by=_ASKED_BY, cache_dir=run.cache_dir, allow_patterns=wanted)
    return BaseCheckpoint(path, config | mode_options(run.downsample_mode), version)


def find_base(run: RunArguments) -> Path:
    """Return the checkpoint's directory, fetching its small files if a hub name was given.

    Raises:
        CheckpointError: There is neither such a directory nor such a hub repository.
    """
    name = run.model_name_or_path
    path = find_directory(name, asked_by=_ASKED_BY, cache_dir=run.cache_dir, **SMALL_FILES)
    if (path / "adapter_config.json").is_file() and not (path / "config.json").is_file():
        raise CheckpointError(
            f"--model_name_or_path: found an adapter in {name!r}, expected a base model\n"
            "  fix: name the base model there, and the adapter with --use_lora true --lora_weight_path"
        )
    check_model_files(path)
    return path


def check_llm_type(stated: str | None, config: dict[str, Any]) -> Version:
    """Return the checkpoint's version, and verify that ``--llm_type`` agrees with it.

    Raises:
        UsageError: The flag means another version, or none.
        CheckpointError: The checkpoint's version is unknown.
    """
    version = detect_version(config)
    if stated and stated not in version.llm_types:
        known = "" if stated in LLM_TYPES else f" (known are {', '.join(LLM_TYPES)})"
        raise UsageError(
            f"--llm_type: found {stated!r}{known}, but the checkpoint is {version.model} (version {version.name}), "
            f"expected {' or '.join(version.llm_types)}\n  fix: set --llm_type {version.llm_types[0]}, or leave it out"
        )
    return version


def check_weights(config: dict[str, Any], run: RunArguments) -> None:
    """Verify that the checkpoint's weights can be trained as the flags ask.

    Raises:
        UsageError: They are quantized, and full fine-tuning is asked for.
        ConfigError: They are quantized, or are to be, and bitsandbytes is not installed.
    """
    packed = config.get("quantization_config")
    if packed and not run.use_lora:
        raise UsageError(
            f"--model_name_or_path: {run.model_name_or_path!r}: found quantized weights, expected unquantized ones: "
            "full fine-tuning needs them\n  fix: use --use_lora true, or start from the unquantized release"
        )
    if (packed or run.q_lora) and importlib.util.find_spec("bitsandbytes") is None:
        what = f"--model_name_or_path {run.model_name_or_path}" if packed else "--q_lora true"
        raise ConfigError(
            f"{what}: found no bitsandbytes, expected the package that reads 4-bit weights\n"
            f"  fix: {install_command(extra('qlora'))}, or use --use_lora true with an unquantized release"
        )


def stated_dtype(config: dict[str, Any]) -> torch.dtype | None:
    """Return the dtype that a checkpoint's config states for its weights."""
    name = config.get("torch_dtype") or config.get("dtype")
    return getattr(torch, name, None) if isinstance(name, str) else None


def dtype_to_save(run: RunArguments, config: dict[str, Any]) -> torch.dtype:
    """Return the precision in which a full model is saved, as ``--save_dtype`` says."""
    return stated_dtype(config) or torch.float32 if run.save_dtype == "auto" else getattr(torch, run.save_dtype)


def load_base(base: Path, run: RunArguments, args: TrainingArguments) -> PreTrainedModel:
    """Load the weights in the precision that training needs.

    Trained weights are float32 under autocast, or half precision under DeepSpeed, which keeps float32 masters itself. A
    base that LoRA leaves frozen is loaded in the run's precision.

    Raises:
        CheckpointError: The weights do not fit the config, or cannot be fetched.
    """
    half = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else torch.float32
    dtype = half if args.deepspeed or run.use_lora else torch.float32
    options: dict[str, Any] = {"dtype": dtype, "cache_dir": run.cache_dir, **mode_options(run.downsample_mode)}
    if run.q_lora:
        options["quantization_config"] = quantization(half, read_model_config(base).minicpmv_version.network)
    device = _device_of_weights(run, args)
    if device is not None:
        options["device_map"] = {"": device}
    source = name_to_load(run.model_name_or_path, asked_by=_ASKED_BY, cache_dir=run.cache_dir)
    try:
        with waiting(f"loading the weights of {source}") if is_first_process() else nullcontext():
            model = load_weights(source, **options)
    except OSError as error:  # of the hub
        raise CheckpointError(
            f"{source}: found no model that can be loaded ({error}), expected one\n"
            "  fix: download the model and give its directory"
        ) from error
    if not run.use_lora:
        raise_together(lambda: _read_carried(model, base) if args.should_save else None)
    return model


def _read_carried(model: Any, base: Path) -> None:
    """Read what is copied into each full model that is saved, before training rather than after it.

    Raises:
        CheckpointError: A file of the base is gone, cut short or cannot be read, or a folder cannot be copied.
    """
    network = model.config.minicpmv_version.network
    if not network.carried:
        return
    carried: Carried = model.carried
    carried.facts()
    num_bytes_of_folders(base)
    absent = [f"tensors of {prefix}*" for prefix in carried.missing(network.carried)]
    absent += [f"folder {name}/" for name in network.whole_folders if not (base / name).is_dir()]
    if carried.tensors:
        say(f"carried over as they are: {len(carried.tensors):,} tensors, {carried.num_bytes:,} bytes")
    if absent and network.whole_folders:
        notice(
            f"{base}: found no {', no '.join(absent)}: what is saved will have none either, and cannot do what the "
            "released model does with them; start from the whole release to keep it"
        )


def _device_of_weights(run: RunArguments, args: TrainingArguments) -> torch.device | None:
    """Return the device that weights are read to; None reads them to host memory, from where an engine takes them.

    Otherwise host memory would hold one model for each process of the machine. MiniCPM-V-2 is no exception: its tower
    is converted on the device, by views and copies. Nor is ZeRO with an offloaded optimizer: the weights that compute
    are on the device there as well.
    """
    if run.q_lora:
        return args.device
    if run.changes_base:
        # A resumed run takes the same part out of the base again. On a CPU it comes out the same bit for bit; a GPU's
        # decompositions do not promise that. Under FSDP2 every process decomposes, hence reads.
        return None
    if args.fsdp:
        return None if args.process_index == 0 else torch.device("meta")  # it hands them out, see `fsdp.hand_out`
    config: Any = args.deepspeed or {}
    if config.get("zero_optimization", {}).get("stage") == 3 or args.device.type == "cpu":
        return None  # ZeRO-3 reads on one process itself, and hands out the pieces
    return args.device
