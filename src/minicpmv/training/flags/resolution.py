"""Resolves what the command line left open, for the machine at hand, and refuses what cannot be honoured.

``TrainingArguments`` is built here, at one place; from then on only transformers' Trainer changes it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from transformers import TrainingArguments

from minicpmv.errors import UsageError
from minicpmv.evaluation.metrics.registry import find_metrics, known_names, name_of, split_names
from minicpmv.machine.description import name_machine
from minicpmv.machine.placement import refuse_crowding
from minicpmv.machine.precision import emulates_bf16, precision
from minicpmv.machine.support import describe_untested, refuse_unusable
from minicpmv.machine.tools import refuse_without_tools
from minicpmv.machine.value import Machine
from minicpmv.machine.workers import default_workers, most_workers
from minicpmv.report.evaluations import OF_EVALUATION, key_of
from minicpmv.terminal.redaction import clean_settings
from minicpmv.training.flags.arguments import Request
from minicpmv.training.flags.catalogue import all_settings, transformers_defaults
from minicpmv.training.flags.declarations import RunArguments
from minicpmv.training.flags.deepspeed.presets import check_compiled, resolve_deepspeed
from minicpmv.training.flags.fsdp_flags import resolve_fsdp
from minicpmv.training.flags.object_flags import check_objects, resolve_objects
from minicpmv.training.flags.packages import check_optimizer, refuse_unreleasable, resolve_trackers
from minicpmv.wording import counted, suggest

__all__ = ["Resolved", "build_training_arguments", "describe_settings", "resolve_settings"]

# flag -> why it is refused as soon as it is switched on
_REFUSED = {
    "auto_find_batch_size": "all batches are planned before training; a smaller --per_device_train_batch_size or "
    "shorter rows (--pack_length) need less memory",
    "enable_jit_checkpoint": "it saves in the middle of an optimizer step",
    "liger_kernel_config": "no kernel of Liger is used",
    "label_smoothing_factor": "it needs the logits of every token, which are never computed",
    "parallelism_config": "only data parallelism, DeepSpeed and FSDP2 are supported",
    "hub_always_push": "the model is uploaded once, when it is saved and verified",
    "hub_revision": "the model is uploaded to the main branch",
    "use_liger_kernel": "its kernels know no MiniCPM-V model; the loss is already computed at trained tokens only",
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
"""What transformers raises when it checks its arguments."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """The settings of a run on a machine. What learns is resolved later, with the model's modules."""

    run: RunArguments
    training: Mapping[str, Any]
    """Keyword arguments for ``TrainingArguments``."""
    compilation: Mapping[str, Any] | None
    """Options for ``torch.compile``; None: nothing is compiled."""
    notices: tuple[str, ...]
    """On what was overruled."""


def resolve_settings(request: Request, machine: Machine) -> Resolved:
    """Fill in what a command line left open.

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
        _resolve_packing(settings)
    _resolve_precision(settings, notices, machine)
    _resolve_fixed(settings, notices)
    if settings.pop("hub_token", None):  # transformers keeps it in what it pickles and hands to trackers
        notices.append(
            "--hub_token: not used, as it would be kept with the run; HF_TOKEN or `hf auth login` serve instead"
        )
    for name in ("push_to_hub", "hub_model_id", "hub_private_repo", "hub_strategy"):
        settings.pop(name, None)  # transformers would upload every checkpoint; ``finish.pushing`` uploads the model
    defaults = transformers_defaults(request.run.objective, use_lora=request.run.use_lora)
    run = _resolve_recomputation(request.run, settings, defaults)
    if run.release_gradients:
        refuse_unreleasable(settings, num_processes=machine.num_processes)
        if "max_grad_norm" not in settings:
            settings["max_grad_norm"] = 0.0
            notices.append("--release_gradients true: gradients are not clipped (--max_grad_norm 0)")
        if "gradient_accumulation_steps" not in settings:
            settings["gradient_accumulation_steps"] = 1
            notices.append("--release_gradients true: no step is accumulated (--gradient_accumulation_steps 1)")
    compilation = _resolve_compilation(settings, machine)
    if not run.may_evaluate:
        _drop_evaluation(settings, notices)
    _resolve_best_model(run, settings)
    settings.setdefault("dataloader_num_workers", 0 if settings["use_cpu"] else default_workers(machine).value)
    settings = {**defaults, **settings}
    _limit_workers(settings, notices, machine)
    # A progress bar in a file is noise.
    settings.setdefault("disable_tqdm", not sys.stderr.isatty())
    _resolve_sharding(run, settings, notices, machine)
    check_optimizer(settings, given=request.given)
    resolve_objects(settings)
    _resolve_copies(settings)
    resolve_trackers(settings)
    return Resolved(run, settings, compilation, tuple(notices))


def _resolve_sharding(run: RunArguments, settings: dict[str, Any], notices: list[str], machine: Machine) -> None:
    """Read what DeepSpeed or FSDP is to do; neither can shard quantized weights."""
    if settings.get("deepspeed"):
        choice = resolve_deepspeed(settings["deepspeed"], on_cpu=settings["use_cpu"])
        settings["deepspeed"] = choice.config
        if not settings["use_cpu"]:
            check_compiled(choice.config, machine)
        notices += choice.notices
        if run.q_lora and choice.config.get("zero_optimization", {}).get("stage") == 3:
            raise UsageError(
                "--q_lora --deepspeed: found ZeRO-3, expected another stage: it cannot shard quantized weights\n"
                "  fix: use --deepspeed zero2"
            )
    resolve_fsdp(
        settings,
        on_cpu=settings["use_cpu"],
        has_accelerator=bool(machine.accelerators),
        num_processes=machine.num_processes,
    )
    if run.q_lora and settings.get("fsdp"):
        raise UsageError(
            "--q_lora --fsdp: found both, expected one: FSDP cannot shard quantized weights\n"
            "  fix: use --deepspeed zero2"
        )


def _limit_workers(settings: dict[str, Any], notices: list[str], machine: Machine) -> None:
    """Start no more workers than the machine has use for."""
    asked, most = settings["dataloader_num_workers"], most_workers(machine)
    if asked > most:
        settings["dataloader_num_workers"] = most
        notices.append(
            f"--dataloader_num_workers {asked:,}: {most} are started, as the machine has "
            f"{counted(machine.num_cores, 'core')}"
        )


def _resolve_copies(settings: dict[str, Any]) -> None:
    """Copy batches to an accelerator without blocking, which needs pinned memory."""
    given = settings.get("accelerator_config") or {}
    if settings["use_cpu"] or not settings.get("dataloader_pin_memory", True) or not isinstance(given, dict):
        return
    settings["accelerator_config"] = {"non_blocking": True, **given}


def _resolve_packing(settings: dict[str, Any]) -> None:
    strategy = settings.get("train_sampling_strategy", "random")
    if strategy not in ("random", "sequential"):
        raise UsageError(
            f"--train_sampling_strategy {strategy} --packing true: found both, expected one of them to decide which "
            "records share a batch\n"
            "  fix: remove one of them"
        )
    if settings.get("dataloader_drop_last"):
        raise UsageError(
            "--dataloader_drop_last true --packing true: found both, expected at most one: no row is dropped\n"
            "  fix: remove one of them"
        )
    if settings.get("include_num_input_tokens_seen") == "non_padding":
        settings["include_num_input_tokens_seen"] = "all"  # the same, where nothing is padded


def _resolve_precision(settings: dict[str, Any], notices: list[str], machine: Machine) -> None:
    if not settings.get("use_cpu"):
        refuse_unusable(machine, on_processor="--use_cpu true")
        refuse_crowding(machine)
        notices += describe_untested(machine)
    settings["use_cpu"] = bool(settings.get("use_cpu") or not machine.accelerators)  # `--use_cpu false` finds no GPU
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


def _resolve_fixed(settings: dict[str, Any], notices: list[str]) -> None:
    if settings.pop("remove_unused_columns", False):
        raise UsageError(
            "--remove_unused_columns: found true, expected false: it would drop images\n  fix: remove the flag"
        )
    settings["remove_unused_columns"] = False
    if settings.pop("label_names", ["labels"]) != ["labels"]:
        raise UsageError("--label_names: found other names, expected labels\n  fix: remove the flag")
    settings["label_names"] = ["labels"]
    if settings.pop("prediction_loss_only", True) is False:
        notices.append("--prediction_loss_only false: evaluation reports the loss; logits are never gathered")
    settings["prediction_loss_only"] = True
    if settings.pop("do_train", True) is False:
        raise UsageError("--do_train: found false, expected true: this command trains\n  fix: remove the flag")
    settings["do_train"] = True
    # A checkpoint has the sums of an unfinished epoch, and the number of evaluations without improvement.
    settings["restore_callback_states_from_checkpoint"] = True


def _drop_evaluation(settings: dict[str, Any], notices: list[str]) -> None:
    asked = [name for name in ("do_eval", "eval_on_start") if settings.get(name)]
    if settings.get("eval_strategy", "no") != "no":
        asked.append("eval_strategy")
    if asked:
        notices.append(f"--{', --'.join(asked)}: no validation data, so nothing is evaluated")
    for name in asked:
        del settings[name]


def _resolve_recomputation(run: RunArguments, settings: dict[str, Any], defaults: Mapping[str, Any]) -> RunArguments:
    """Decide which parts are recomputed, and whether transformers has to switch anything on."""
    # transformers 5.20, the last for Python 3.10, has the old name only.
    names = ("activation_checkpointing", "gradient_checkpointing")
    flag = next(name for name in names if name in all_settings())
    whole = settings.get(flag, defaults[flag]) or False
    of_llm, of_vision = run.llm_activation_checkpointing, run.vision_activation_checkpointing
    run = replace(
        run,
        llm_activation_checkpointing=whole if of_llm is None else of_llm,
        vision_activation_checkpointing=whole if of_vision is None else of_vision,
    )
    asked = run.llm_activation_checkpointing, run.vision_activation_checkpointing
    settings[flag] = any(asked)
    if "auto" in asked:
        _check_auto(run, settings, flag)
    if settings.get(f"{flag}_kwargs") and not settings[flag]:
        raise UsageError(f"--{flag}_kwargs: found with --{flag} false, expected true\n  fix: remove one of them")
    return run


def _check_auto(run: RunArguments, settings: Mapping[str, Any], flag: str) -> None:
    """Refuse to choose layers by their memory where it is not known beforehand."""
    reasons = {
        "--deepspeed": (settings.get("deepspeed"), "its processes hold parts of everything"),
        "--fsdp": (settings.get("fsdp"), "its processes hold parts of everything"),
        "--check_first false": (not run.check_first, "the longest row is known after all records are read"),
    }
    for other, (is_on, reason) in reasons.items():
        if is_on:
            raise UsageError(
                f"--{flag} auto {other}: found both, expected one: {reason}\n"
                f"  fix: use --{flag} true, or remove {other}"
            )


def _resolve_compilation(settings: dict[str, Any], machine: Machine) -> dict[str, Any] | None:
    """Take ``--torch_compile`` away from transformers, which would compile the whole model; layers are compiled."""
    asked = settings.pop("torch_compile", None)
    options = {
        name: value
        for name in ("backend", "mode")
        if (value := settings.pop(f"torch_compile_{name}", None)) is not None
    }
    if asked is False and options:
        raise UsageError(
            f"--torch_compile false --torch_compile_{next(iter(options))}: found both, expected one: nothing is "
            "compiled\n  fix: remove one of them"
        )
    if not (asked or options):
        return None
    if options.get("backend", "inductor") == "inductor":
        compiled = "layers on a processor" if settings["use_cpu"] else "layers on a GPU"
        refuse_without_tools(machine, compiled, asked_by="--torch_compile", otherwise="remove the flag")
    return options


def _resolve_best_model(run: RunArguments, settings: dict[str, Any]) -> None:
    """Choose the metric that decides on the best checkpoint, and which direction is better.

    With several validation sets, the loss on the first one decides unless another metric is named.
    """
    sets = list(run.eval_sources) or [""]
    measured = {name_of(written): written for written in split_names(run.eval_metrics or "")}
    of_sets = {
        key_of(name, metric).removeprefix("eval_"): metric for name in sets for metric in (*OF_EVALUATION, *measured)
    }
    written = settings.get("metric_for_best_model")
    if written is None and run.keep_best:
        written = settings["metric_for_best_model"] = key_of(sets[0], "loss")
    metric = of_sets.get((written or key_of(sets[0], "loss")).removeprefix("eval_"))
    if metric is None:
        known = [key_of(name, each) for name in sets for each in ("loss", *measured)]
        unasked = {key_of(name, each): each for name in sets for each in known_names()}.get(written or "")
        fix = suggest(written or "", known, otherwise="choose one of these, or have another measured: --eval_metrics")
        if unasked is not None:
            fix = f"add --eval_metrics {','.join([*measured.values(), unasked])}"
        raise UsageError(
            f"--metric_for_best_model: found {written!r}, expected a metric that is measured: {', '.join(known)}\n"
            f"  fix: {fix}"
        )
    if metric in measured:
        (found,) = find_metrics([measured[metric]], flag="--eval_metrics")
        settings.setdefault("greater_is_better", found.higher_is_better)


class _Arguments(TrainingArguments):
    """Hides secrets in the mapping that trackers and ``run.json`` get."""

    def to_dict(self) -> dict[str, Any]:
        return clean_settings(super().to_dict())


def build_training_arguments(settings: Mapping[str, Any]) -> TrainingArguments:
    """Build transformers' own arguments.

    Raises:
        UsageError: transformers refuses a value or a combination.
    """
    try:
        args = _Arguments(**settings)
    except _REFUSALS as error:
        raise UsageError(
            f"training arguments: found flags that transformers refuses ({error}), expected what it accepts\n"
            "  fix: change or remove the flag, or unset the variable of the environment, that it names"
        ) from error
    for name in ("dispatch_batches", "split_batches"):
        if getattr(args.accelerator_config, name):
            raise UsageError(
                f"--accelerator_config: found {name} true, expected it off: every process reads its own planned "
                "batches\n  fix: remove it"
            )
    check_objects(args)
    return args


def describe_settings(args: TrainingArguments, machine: Machine, *, use_lora: bool) -> str:
    """Describe in one line how a run learns."""
    precision = "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32"
    schedule = getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)
    return (
        f"{'LoRA' if use_lora else 'full'} fine-tuning, learning rate {args.learning_rate:g} "
        f"({schedule}, warmup {args.warmup_steps:g}, weight decay {args.weight_decay:g}, beta2 {args.adam_beta2:g}), "
        f"{precision}, "
        f"{args.world_size} process{'es' if args.world_size > 1 else ''} on {args.device.type} "
        f"({name_machine(machine, device_type=args.device.type)}), seed {args.seed}"
    )
