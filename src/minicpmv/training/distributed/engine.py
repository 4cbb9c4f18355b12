"""Sets up the engine of a run: one process or many, with or without DeepSpeed. FSDP2 has a module of its own."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import warnings
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import torch
from torch import nn
from transformers import TrainingArguments
from transformers.utils import logging as transformers_logging

from minicpmv.errors import ConfigError
from minicpmv.machine.installed import install_command
from minicpmv.machine.system import num_launched
from minicpmv.training.distributed.fsdp import prepare_fsdp, start_fsdp
from minicpmv.training.distributed.network import choose_interface, complete_group_of_one
from minicpmv.training.distributed.processes import meet
from minicpmv.training.flags.declarations import RunArguments
from minicpmv.training.flags.deepspeed.presets import offloads_optimizer
from minicpmv.training.flags.resolution import build_training_arguments

__all__ = [
    "load_deepspeed",
    "name_engine",
    "prepare_rendezvous",
    "quieten",
    "start_deepspeed",
    "start_engine",
    "tell_reads",
]

# Warnings that dependencies raise about each other; not actionable here. Each may go with the release named.
_NOISE = (
    r"`is_gradient_checkpointing` is deprecated",  # PEFT 0.21 calls transformers by the old name
    r"`torch\.distributed\.\w+` is deprecated",  # DeepSpeed 0.19 calls torch's collectives by their old names
    # torch 2.13 warns about changing image features in place; here they are copied into their slots.
    r"FSDP2-wrapped module \(FSDPResampler\) returned a view",
)
# The same for log messages: logger, and part of the message.
_REMARKS = {
    "accelerate.accelerator": "Gradient accumulation steps mismatch",  # 1.15 compares it with its own default
    # What may not differ was compared with the checkpoint before; of the rest, this run's values count.
    "transformers.trainer_utils": "do not match the ones in the `trainer_state.json`",
    "transformers.trainer": "Checkpoint included callbacks not included in current configuration",
    # transformers 5.23 recommends an FSDP setting that would rename the keys that an adapter is saved under.
    "transformers.training_args": "When using FSDP, prefer `fsdp_config['activation_checkpointing']`",
}


def start_engine(run: RunArguments, settings: Mapping[str, Any]) -> TrainingArguments:
    """Join the processes of a run, and return transformers' arguments for it.

    Args:
        run: The flags.
        settings: Keyword arguments for ``TrainingArguments``, complete.

    Raises:
        UsageError: transformers refuses a value or a combination.
        ConfigError: DeepSpeed is not installed.
    """
    if run.logging_dir:  # transformers 5 takes it from the environment only
        os.environ["TENSORBOARD_LOGGING_DIR"] = run.logging_dir
    uses_deepspeed = bool(settings.get("deepspeed"))
    choose_interface()
    prepare_rendezvous(use_deepspeed=uses_deepspeed)
    if settings["disable_tqdm"]:
        transformers_logging.disable_progress_bar()
    quieten()
    if settings.get("fsdp"):
        prepare_fsdp()
    if settings["use_cpu"]:
        _join_on_cpu(settings)
    args = build_training_arguments(settings)
    if uses_deepspeed:
        start_deepspeed(args)
    if args.fsdp:
        start_fsdp(args)
    meet()
    return args


def quieten() -> None:
    """Silence the warnings that libraries raise about each other; all their other messages stay."""
    for message in _NOISE:
        warnings.filterwarnings("ignore", message=message)
    for name, words in _REMARKS.items():
        logging.getLogger(name).addFilter(lambda entry, words=words: words not in str(entry.msg))


def prepare_rendezvous(*, use_deepspeed: bool) -> None:
    """Make a run that no launcher started a process group of one.

    DeepSpeed always needs a group. With several GPUs a plain ``python`` would make transformers fall back to
    ``nn.DataParallel``, which cannot train these models; as a group of one it uses the first GPU.
    """
    if not torch.accelerator.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # what it would detect anyway, without a warning each time
    is_said = any(name in os.environ for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"))
    if is_said or use_deepspeed or torch.accelerator.device_count() > 1:
        os.environ.update(complete_group_of_one(os.environ))


def _join_on_cpu(settings: Mapping[str, Any]) -> None:
    """Join the processes of a run on CPUs, with ``--ddp_timeout`` as the timeout.

    transformers 5.23 passes that flag on for accelerators only. This may go when it does so for CPUs.
    """
    if num_launched("WORLD_SIZE") > 1:
        seconds = settings.get("ddp_timeout", TrainingArguments.ddp_timeout)
        backend = settings.get("ddp_backend") or "gloo"
        torch.distributed.init_process_group(backend, timeout=timedelta(seconds=seconds))


def name_engine(args: TrainingArguments) -> str:
    """Name the engine that shards weights and optimizer; only the engine that wrote a checkpoint can resume it."""
    if args.fsdp:
        return "FSDP2"
    if not args.deepspeed:
        return "no DeepSpeed"
    config: Any = args.deepspeed
    assert isinstance(config, dict), "it was parsed with the settings"
    name = f"DeepSpeed ZeRO-{config.get('zero_optimization', {}).get('stage', 0)}"
    return f"{name} with offload" if offloads_optimizer(config) else name


def load_deepspeed() -> Any:
    """Import DeepSpeed. It is a heavy package, so only runs that use it import it.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        return importlib.import_module("deepspeed")
    except ImportError as error:
        raise ConfigError(
            f"--deepspeed: found no DeepSpeed, expected the package, which exists for Linux\n"
            f"  fix: {_install_deepspeed()}remove --deepspeed, which one process does not need"
        ) from error


def _install_deepspeed() -> str:
    is_there = sys.platform == "linux"  # pyproject.toml asks for it there alone, and in these versions
    return f"{install_command('deepspeed>=0.19.8,<0.20')}, or " if is_there else ""


def start_deepspeed(args: TrainingArguments) -> None:
    """Join the processes. ZeRO-3 needs it before the model is loaded; a no-op where accelerate has done it.

    On a CPU DeepSpeed would compile a shared-memory collective at the first start, which takes minutes and a
    compiler; gloo does the same work.
    """
    deepspeed = load_deepspeed()
    if args.use_cpu:
        # Private: DeepSpeed has no public switch against building ops. It may go when a DeepSpeed release falls back to
        # gloo by itself where no compiler is found.
        ops = importlib.import_module("deepspeed.ops")
        ops.__compatible_ops__["deepspeed_shm_comm"] = False
    backend = args.distributed_state.backend if args.distributed_state is not None else None
    deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False)


def tell_reads(model: nn.Module) -> None:
    """Tell ZeRO-3 which weights a module reads without calling the module that has them, so that it gathers them.

    DeepSpeed finds them by itself only while its own engine runs the model, and not where the model answers.
    """
    for module in model.modules():
        for parameter in getattr(module, "read_directly", ()):
            if hasattr(parameter, "ds_id"):
                load_deepspeed().zero.register_external_parameter(module, parameter)
