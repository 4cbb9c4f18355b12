"""Refuses an optimizer or a tracker that a run cannot use, or whose package is missing, before anything is loaded."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Set
from typing import Any

from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from minicpmv.errors import ConfigError, UsageError
from minicpmv.machine.installed import install_command
from minicpmv.training.flags.declared.learning import RATED
from minicpmv.training.flags.declared.optimizers import reason_against
from minicpmv.training.flags.deepspeed.presets import offloads_optimizer
from minicpmv.wording import suggest

__all__ = ["check_optimizer", "refuse_unreleasable", "resolve_trackers"]

# First words of an optimizer's name -> the packages behind it, as imported and for pip. The first match counts.
_PACKAGES: tuple[tuple[tuple[str, ...], tuple[tuple[str, str], ...]], ...] = (
    (("galore_adamw_8bit",), (("galore_torch", "galore-torch"), ("bitsandbytes", "bitsandbytes"))),
    (("galore",), (("galore_torch", "galore-torch"),)),
    (("apollo",), (("apollo_torch", "apollo-torch"),)),
    (("adamw_torch_4bit", "adamw_torch_8bit"), (("torchao", "torchao"),)),
    (("adamw_bnb", "adamw_8bit", "ademamix", "lion", "paged", "rmsprop_bnb"), (("bitsandbytes", "bitsandbytes"),)),
    (("grokadamw",), (("grokadamw", "grokadamw"),)),
    (("stable_adamw",), (("optimi", "torch-optimi"),)),
    (("adamw_torch_npu",), (("torch_npu", "torch-npu"),)),
)

# They need the rows and columns of each matrix; ZeRO gives an optimizer flat slices of all weights.
_SHAPED = ("adafactor", "apollo", "galore")
# FSDP gives an optimizer sharded tensors, which only torch's own support.
_OF_TORCH = ("adagrad", "adamw_torch", "adamw_torch_fused", "rmsprop", "sgd")
# DeepSpeed has CPU versions of these; any other it would replace by its Adam.
_FOR_OFFLOAD = ("adagrad", "adamw_torch", "adamw_torch_fused")
# The others read --optim_args nowhere.
_WITH_ARGUMENTS = ("adagrad", "adamw_torch_4", "adamw_torch_8", "ademamix", "apollo", "galore", "grokadamw")
_WITH_ARGUMENTS += ("paged_ademamix", "rmsprop", "sgd", "stable_adamw")


# The start of its name, or one of torch's own: it updates each weight by that weight's own gradient and state, and
# leaves out those without a gradient. The others were not tried.
_RELEASABLE = ("adafactor", "adamw_bnb", "adamw_8bit", "ademamix", "lion", "paged", "rmsprop_bnb")


# Name -> its package as imported and as pip knows it, where they differ from the name.
_TRACKERS = {
    "azure_ml": ("azureml", "azureml-core"),
    "comet_ml": ("comet_ml", "comet-ml"),
    "flyte": ("flytekit", "flytekit"),
}
_WITHOUT_PACKAGE = {"kubeflow"}  # transformers writes to an address that its operator sets


def check_optimizer(settings: Mapping[str, Any], *, given: Set[str]) -> None:
    """Refuse an optimizer that cannot work, or a flag of it that has no effect.

    Args:
        settings: Keyword arguments for ``TrainingArguments``; ``deepspeed`` is a configuration.
        given: Names of all flags that were given.

    Raises:
        UsageError: transformers has no such optimizer, or it cannot be used with the other flags.
        ConfigError: Its package is not installed.
    """
    name = str(getattr(settings.get("optim"), "value", settings.get("optim") or "adamw_torch_fused"))
    reason = reason_against(name)
    if reason is not None:
        raise UsageError(
            f"--optim: found {name!r}, expected another optimizer: {reason}\n"
            "  fix: adamw_torch_fused is the default; adamw_bnb_8bit and adafactor need less memory"
        )
    packages = next((packages for starts, packages in _PACKAGES if name.startswith(starts)), ())
    missing = [pip for module, pip in packages if importlib.util.find_spec(module) is None]
    if missing:
        raise ConfigError(
            f"--optim {name}: found no {' and no '.join(missing)}, expected the package behind it\n"
            f"  fix: {install_command(*missing)}, or choose another optimizer"
        )
    low_rank = name.startswith(("apollo", "galore"))
    if low_rank and not settings.get("optim_target_modules"):
        raise UsageError(
            f"--optim {name}: found no --optim_target_modules, expected the matrices that it works on\n"
            "  fix: add --optim_target_modules all-linear, or a regular expression"
        )
    if settings.get("optim_target_modules") and not low_rank:
        raise UsageError(
            f"--optim_target_modules --optim {name}: found both, expected one: this optimizer does not read it\n"
            "  fix: remove --optim_target_modules"
        )
    if settings.get("optim_args") and not name.startswith(_WITH_ARGUMENTS):
        raise UsageError(
            f"--optim_args --optim {name}: found both, expected one: this optimizer does not read it\n"
            "  fix: remove --optim_args"
        )
    if settings.get("deepspeed"):
        _check_under_deepspeed(name, settings["deepspeed"], given)
    if settings.get("fsdp") and name not in _OF_TORCH:
        raise UsageError(
            f"--optim {name} --fsdp: found both, expected {' or '.join(_OF_TORCH)}: other optimizers cannot work "
            "on FSDP's sharded tensors\n  fix: change --optim, or use --deepspeed zero2"
        )


def _check_under_deepspeed(name: str, config: Mapping[str, Any], given: Set[str]) -> None:
    if "optimizer" in config:
        flags = ["optim", *(f"{part}_{what}" for what in ("lr", "weight_decay") for part in RATED)]
        idle = [f"--{flag}" for flag in flags if flag in given]
        if idle:
            raise UsageError(
                f"{', '.join(idle)} --deepspeed: found both, expected a configuration without an 'optimizer' block, "
                "which trains every part alike\n  fix: remove that block, or these flags"
            )
    elif name.startswith(_SHAPED):
        raise UsageError(
            f"--optim {name} --deepspeed: found both, expected one: it needs the rows and columns of each matrix, "
            "and ZeRO gives it flat slices of them\n  fix: use adamw_torch_fused or adamw_bnb_8bit, or no --deepspeed"
        )
    elif offloads_optimizer(config) and config.get("zero_force_ds_cpu_optimizer", True) and name not in _FOR_OFFLOAD:
        raise UsageError(
            f"--optim {name} --deepspeed: found both, expected {' or '.join(_FOR_OFFLOAD)}: offload runs DeepSpeed's "
            "own CPU optimizer, which has no version of it\n  fix: change --optim, or do without offload"
        )


def refuse_unreleasable(settings: Mapping[str, Any], *, num_processes: int) -> None:
    """Refuse ``--release_gradients`` beside what needs all gradients of a step at once.

    Args:
        settings: Keyword arguments for ``TrainingArguments`` that were given.
        num_processes: Number of processes of the run.

    Raises:
        UsageError: Something does.
    """
    name = str(settings.get("optim") or "adamw_torch_fused")
    accumulated, clipped = settings.get("gradient_accumulation_steps") or 1, settings.get("max_grad_norm") or 0
    shards = "it frees gradients between processes itself"
    reasons = {
        "--deepspeed": (settings.get("deepspeed"), "DeepSpeed keeps gradients in buckets of its own", "--deepspeed"),
        "--fsdp true": (settings.get("fsdp"), shards, "--fsdp"),
        f"--num_processes {num_processes}": (
            num_processes > 1,
            "processes exchange their gradients at the end of a step",
            "--release_gradients, or train with --num_processes 1; --deepspeed zero2 shares gradients out",
        ),
        "--fp16 true": (
            settings.get("fp16"),
            "loss scaling looks at all gradients before the first update",
            "--fp16 (--bf16 true on a GPU that has it, --fp16 false for float32)",
        ),
        f"--gradient_accumulation_steps {accumulated}": (
            accumulated > 1,
            "accumulated gradients are kept",
            "--gradient_accumulation_steps; a longer --pack_length has as many records in a step",
        ),
        f"--max_grad_norm {clipped:g}": (clipped, "clipping takes the norm of all gradients", "--max_grad_norm"),
        f"--optim {name}": (
            name not in _OF_TORCH and not name.startswith(_RELEASABLE),
            "it was not tried",
            "--optim, or choose adamw_torch_fused, adafactor or adamw_bnb_8bit",
        ),
    }
    for flag, (is_on, reason, remedy) in reasons.items():
        if is_on:
            raise UsageError(
                f"{flag} --release_gradients true: found both, expected one: {reason}\n  fix: remove {remedy}"
            )


def resolve_trackers(settings: dict[str, Any]) -> None:
    """Read ``report_to``, names separated by commas, into the list that transformers takes.

    Args:
        settings: Keyword arguments for ``TrainingArguments``.

    Raises:
        UsageError: There is no such tracker.
        ConfigError: Its package is not installed.
    """
    names = [name.strip() for name in settings["report_to"].split(",")]
    settings["report_to"] = names
    if names in (["none"], ["all"]):
        return
    for name in names:
        if name not in INTEGRATION_TO_CALLBACK:
            known = ", ".join(INTEGRATION_TO_CALLBACK)
            fix = suggest(name, INTEGRATION_TO_CALLBACK, otherwise="choose one of these")
            raise UsageError(
                f"--report_to: found {name!r}, expected some of {known}, or all or none by itself\n  fix: {fix}"
            )
    packages = [_TRACKERS.get(name, (name, name)) for name in names if name not in _WITHOUT_PACKAGE]
    missing = [pip for module, pip in packages if importlib.util.find_spec(module) is None]
    if missing:
        raise ConfigError(
            f"--report_to {','.join(names)}: found no {' and no '.join(missing)}, expected the package behind it\n"
            f"  fix: {install_command(*missing)}, or --report_to none"
        )
