"""Fills in what the command line left open, for the machine at hand, and refuses what cannot be honoured."""

from __future__ import annotations

import sys
from typing import Any

from transformers import TrainingArguments

from minicpmv.errors import UsageError
from minicpmv.machine.description import name_machine
from minicpmv.machine.placement import refuse_crowding
from minicpmv.machine.precision import emulates_bf16, precision
from minicpmv.machine.support import describe_untested, refuse_unusable
from minicpmv.machine.value import Machine
from minicpmv.machine.workers import default_workers, most_workers
from minicpmv.terminal.redaction import clean_settings
from minicpmv.training.flags.arguments import Request
from minicpmv.training.flags.deepspeed_presets import refuse_uncompiled, resolve_deepspeed
from minicpmv.training.flags.evaluation_flags import settle_best_model
from minicpmv.training.flags.fsdp_flags import settle_fsdp
from minicpmv.training.flags.layer_flags import settle_compilation, settle_recomputation
from minicpmv.training.flags.object_flags import check_objects, try_objects
from minicpmv.training.flags.optimizers import check_optimizer
from minicpmv.training.flags.trackers import settle_trackers

__all__ = ["build_training_arguments", "complete_settings", "describe_settings"]

# flag -> why it is refused as soon as it is switched on
_REFUSED = {
    "auto_find_batch_size": "all batches are planned before training; a smaller --per_device_train_batch_size or "
    "shorter rows (--pack_length) need less memory",
    "enable_jit_checkpoint": "it saves in the middle of an optimizer step",
    "label_smoothing_factor": "it needs the logits of every token, which are never computed",
    "parallelism_config": "only data parallelism, DeepSpeed and FSDP2 are supported",
    "push_to_hub": "a run never uploads anything; upload the finished directory with `hf upload`",
    "use_liger_kernel": "its kernels know no MiniCPM-V model; the loss is already computed at trained tokens only",
}

_DEFAULTS: dict[str, Any] = {
    # Every process runs every trained part in every step, so there is nothing to look for.
    "ddp_find_unused_parameters": False,
    "logging_nan_inf_filter": False,  # a loss that is not a number must be seen
    "logging_steps": 10,
    "lr_scheduler_type": "cosine",
    "per_device_eval_batch_size": 1,
    "per_device_train_batch_size": 1,
    "report_to": "tensorboard",
    "save_total_limit": 2,
    "warmup_steps": 0.03,
}


_REFUSALS = (
    ArithmeticError,
    AssertionError,
    ImportError,
    LookupError,
    NotImplementedError,
    OSError,
    TypeError,
    ValueError,
)
"""What transformers raises where it checks its arguments."""


def complete_settings(request: Request, machine: Machine) -> tuple[dict[str, Any], list[str]]:
    """Say how ``TrainingArguments`` is to be built.

    Returns:
        Its keyword arguments, and notices on what was overruled.

    Raises:
        UsageError: A flag cannot be honoured, here or at all.
        MachineError: The machine has what this run cannot compute with.
        ConfigError: The DeepSpeed configuration cannot be found or read.
    """
    settings = dict(request.training)
    notices = list(request.notices)
    for name, reason in _REFUSED.items():
        if settings.get(name):
            raise UsageError(f"--{name}: found {settings[name]!r}, expected it off: {reason}\n  fix: remove the flag")
    if request.run.packing:
        _settle_packing(settings)
    _settle_precision(settings, notices, machine)
    _settle_fixed(settings, notices)
    if settings.pop("hub_token", None):  # transformers keeps it in what it pickles and hands to trackers
        notices.append("--hub_token: a run never uploads anything, so it is not used; HF_TOKEN serves for downloads")
    settle_recomputation(request.run, settings)
    settle_compilation(request.run, settings, machine)
    if not request.run.may_evaluate:
        _drop_evaluation(settings, notices)
    settle_best_model(request.run, settings)
    settings.setdefault("learning_rate", 1e-4 if request.run.use_lora else 1e-5)
    settings.setdefault("dataloader_num_workers", 0 if settings["use_cpu"] else default_workers(machine).value)
    for name, value in _DEFAULTS.items():
        settings.setdefault(name, value)
    _limit_workers(settings, notices, machine)
    # A progress bar in a file is noise.
    settings.setdefault("disable_tqdm", not sys.stderr.isatty())
    if settings.get("deepspeed"):
        choice = resolve_deepspeed(settings["deepspeed"], on_cpu=settings["use_cpu"])
        settings["deepspeed"] = choice.config
        if not settings["use_cpu"]:
            refuse_uncompiled(choice.config, machine)
        notices += choice.notices
        if request.run.q_lora and choice.config.get("zero_optimization", {}).get("stage") == 3:
            raise UsageError(
                "--q_lora --deepspeed: found ZeRO-3, expected another stage: it cannot shard 4-bit weights\n"
                "  fix: use --deepspeed zero2"
            )
    settle_fsdp(
        settings,
        on_cpu=settings["use_cpu"],
        has_accelerator=bool(machine.accelerators),
        num_processes=machine.num_processes,
    )
    if request.run.q_lora and settings.get("fsdp"):
        raise UsageError(
            "--q_lora --fsdp: found both, expected one: FSDP cannot shard 4-bit weights\n  fix: use --deepspeed zero2"
        )
    check_optimizer(settings, given=request.given)
    check_objects(settings)
    _settle_copies(settings)
    settle_trackers(settings)
    return settings, notices


def _limit_workers(settings: dict[str, Any], notices: list[str], machine: Machine) -> None:
    """Start no more processes than the machine can be meant to have."""
    asked, most = settings["dataloader_num_workers"], most_workers(machine)
    if asked > most:
        settings["dataloader_num_workers"] = most
        notices.append(
            f"--dataloader_num_workers {asked:,}: {most} are started, as the machine has {machine.num_cores} core(s)"
        )


def _settle_copies(settings: dict[str, Any]) -> None:
    """Send a batch to an accelerator without waiting until it is there, or for what was launched before it.

    That takes memory that is pinned, as a loader's batches are unless a flag says otherwise.
    """
    given = settings.get("accelerator_config") or {}
    if settings["use_cpu"] or not settings.get("dataloader_pin_memory", True) or not isinstance(given, dict):
        return
    settings["accelerator_config"] = {"non_blocking": True, **given}


def _settle_packing(settings: dict[str, Any]) -> None:
    strategy = settings.get("train_sampling_strategy", "random")
    if strategy not in ("random", "sequential"):
        raise UsageError(
            f"--train_sampling_strategy {strategy} --packing true: found two answers to which records share a batch\n"
            "  fix: remove one of them"
        )
    if settings.get("dataloader_drop_last"):
        raise UsageError(
            "--dataloader_drop_last true --packing true: found both, expected at most one: no row is dropped\n"
            "  fix: remove one of them"
        )
    if settings.get("include_num_input_tokens_seen") == "non_padding":
        settings["include_num_input_tokens_seen"] = "all"  # the same, where nothing is padded


def _settle_precision(settings: dict[str, Any], notices: list[str], machine: Machine) -> None:
    if not settings.get("use_cpu"):
        refuse_unusable(machine, on_processor="--use_cpu true")
        refuse_crowding(machine)
        notices += describe_untested(machine)
    settings.setdefault("use_cpu", not machine.accelerators)
    on_cpu = settings["use_cpu"]
    if settings.get("fp16") and on_cpu:
        raise UsageError(
            "--fp16 true: found no accelerator, expected one: float16 training does not work on a CPU\n"
            "  fix: remove --fp16, or use --bf16 true"
        )
    if settings.get("fp16") and settings.get("bf16"):
        raise UsageError("--fp16 true --bf16 true: found both, expected at most one\n  fix: remove one of them")
    best = precision(machine)
    if not on_cpu and best.value == "bf16" and not settings.get("fp16"):
        settings.setdefault("bf16", True)
    if not on_cpu and best.value == "fp16":
        if settings.get("bf16") and any(emulates_bf16(each) for each in machine.accelerators):
            notices.append(f"--bf16 true: {best.reason}; torch emulates it, slowly. Without the flag: --fp16 true")
        elif "bf16" not in settings and "fp16" not in settings:
            settings["fp16"] = True
            notices.append(f"precision: float16, because {best.reason}; --fp16 false trains in float32")
    for name in ("fp16_full_eval", "bf16_full_eval"):
        if settings.pop(name, False):
            # transformers would cast the very weights that are saved afterwards, and DeepSpeed would train in it.
            notices.append(f"--{name}: evaluation runs in the precision of training")


def _settle_fixed(settings: dict[str, Any], notices: list[str]) -> None:
    if settings.pop("remove_unused_columns", False):
        raise UsageError("--remove_unused_columns: found true, expected false: it would drop images\n  fix: remove it")
    settings["remove_unused_columns"] = False
    if settings.pop("label_names", ["labels"]) != ["labels"]:
        raise UsageError("--label_names: found other names, expected labels\n  fix: remove the flag")
    settings["label_names"] = ["labels"]
    if settings.pop("prediction_loss_only", True) is False:
        notices.append("--prediction_loss_only false: evaluation reports the loss; logits are never gathered")
    settings["prediction_loss_only"] = True
    if settings.pop("do_train", True) is False:
        raise UsageError("--do_train false: this command trains\n  fix: remove the flag")
    settings["do_train"] = True
    # What has been added up in an unfinished epoch, and how long nothing has improved, is part of a checkpoint.
    settings["restore_callback_states_from_checkpoint"] = True


def _drop_evaluation(settings: dict[str, Any], notices: list[str]) -> None:
    asked = [name for name in ("do_eval", "eval_on_start") if settings.get(name)]
    if settings.get("eval_strategy", "no") != "no":
        asked.append("eval_strategy")
    if asked:
        notices.append(f"--{', --'.join(asked)}: no --eval_data_path, so nothing is evaluated")
    for name in asked:
        del settings[name]


class _Arguments(TrainingArguments):
    """Tells nobody a secret: trackers are handed this mapping, and so is ``run.json``."""

    def to_dict(self) -> dict[str, Any]:
        return clean_settings(super().to_dict())


def build_training_arguments(settings: dict[str, Any]) -> TrainingArguments:
    """Build transformers' own arguments.

    Raises:
        UsageError: transformers refuses a value or a combination.
    """
    try:
        args = _Arguments(**settings)
    except _REFUSALS as error:
        found = f"found what transformers refuses: {error}"
        raise UsageError(f"training arguments: {found}\n  fix: correct the flag it names") from error
    for name in ("dispatch_batches", "split_batches"):
        if getattr(args.accelerator_config, name):
            raise UsageError(
                f"--accelerator_config: found {name} true, expected it off: every process reads its own planned "
                "batches\n  fix: remove it"
            )
    try_objects(args)
    return args


def describe_settings(args: TrainingArguments, machine: Machine, *, use_lora: bool) -> str:
    """Say in one line what matters most about how a run learns."""
    precision = "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32"
    schedule = getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)
    return (
        f"{'LoRA' if use_lora else 'full'} fine-tuning, learning rate {args.learning_rate:g} "
        f"({schedule}, warmup {args.warmup_steps:g}, weight decay {args.weight_decay:g}, beta2 {args.adam_beta2:g}), "
        f"{precision}, "
        f"{args.world_size} process{'es' if args.world_size > 1 else ''} on {args.device.type} "
        f"({name_machine(machine, device_type=args.device.type)}), seed {args.seed}"
    )
