"""Lists all settings of a run: ours, and every field of the installed ``TrainingArguments``, which is not imported.

transformers declares name, type, default and help of its fields; what it does not say, group, range and what resuming
asks, is in one table here. Its source is parsed instead of imported, because that would load torch before ``--help``.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any, cast

from minicpmv.training.flags.declarations import RunArguments
from minicpmv.training.flags.declared.optimizers import reason_against
from minicpmv.training.flags.declared.recipe import RECIPE_NAMES, describe_value, recipe_of
from minicpmv.training.flags.fields import (
    COUNT,
    EVERY,
    FRACTION,
    MOST_COUNTED,
    NOT_NEGATIVE,
    PART,
    POSITIVE,
    SEED,
    Group,
    Kind,
    Range,
    Resume,
    Setting,
    read_kind,
    setting_of,
)

__all__ = ["OTHER_NAMES", "all_settings", "is_explained_here", "our_settings", "transformers_defaults"]

OTHER_NAMES: Mapping[str, str] = {
    "model": "model_name_or_path",
    "data": "data_path",
    "eval_data": "eval_data_path",
    "output": "output_dir",
}
"""Short names, the same in every command, and what the official scripts call them."""


@dataclass(frozen=True, slots=True)
class _Row:
    """What transformers does not say of one of its fields."""

    group: Group
    resume: Resume
    range: Range | None = None
    default: Any = None
    """Takes the place of transformers' default, where the recipe has none; None: that one stays."""
    default_in_words: str = ""
    """Of a default that depends on the machine or on other settings."""
    choices: tuple[str, ...] = ()
    """The only texts that are allowed, where transformers computes them."""
    words: tuple[str, ...] = ()
    """Words that this package takes besides true and false."""
    help: str = ""
    """Takes the place of transformers' text, where a flag does something else here."""


_PUSH_TO_HUB = (
    "Upload the model to --hub_model_id when it is saved and verified, as `minicpmv push` does, with a token of "
    "HF_TOKEN or MODELSCOPE_API_TOKEN, or of a login. An upload that fails leaves the run as it is."
)
_HUB_MODEL_ID = "Repository for --push_to_hub: owner/name, or modelscope:owner/name. It is made if there is none."
_HUB_PRIVATE_REPO = "Whether a repository that --push_to_hub makes is private. Default: true."
_LOG_LEVELS = ("detail", "debug", "info", "warning", "error", "critical", "passive")


_TRANSFORMERS: Mapping[str, _Row] = {
    # -------------------------------------------------------------------------------------------- batches and length
    "data_seed": _Row("Batches and length", "same", SEED),
    "dataloader_drop_last": _Row("Batches and length", "same"),
    "gradient_accumulation_steps": _Row("Batches and length", "same", COUNT),
    "per_device_train_batch_size": _Row("Batches and length", "same", COUNT),
    "seed": _Row("Batches and length", "same", SEED),
    "train_sampling_strategy": _Row("Batches and length", "same"),
    # ------------------------------------------------------------------------------------------ precision and memory
    # The same numbers are computed again, not other ones.
    "activation_checkpointing": _Row("Precision and memory", "free", words=("auto",)),
    "activation_checkpointing_kwargs": _Row("Precision and memory", "free"),
    "gradient_checkpointing": _Row("Precision and memory", "free", words=("auto",)),
    "gradient_checkpointing_kwargs": _Row("Precision and memory", "free"),
    "bf16": _Row("Precision and memory", "same", default_in_words="true on a GPU that has it"),
    "fp16": _Row("Precision and memory", "same", default_in_words="true on a GPU without bfloat16"),
    "bf16_full_eval": _Row("Precision and memory", "free"),  # without effect: evaluation has training's precision
    "fp16_full_eval": _Row("Precision and memory", "free"),
    "full_determinism": _Row("Precision and memory", "same"),  # chooses other kernels, which round otherwise
    "tf32": _Row("Precision and memory", "same"),
    # Compiled layers round otherwise. What is compiled, and how, is compared as one value.
    "torch_compile": _Row("Precision and memory", "content"),
    "torch_compile_backend": _Row("Precision and memory", "content"),
    "torch_compile_mode": _Row("Precision and memory", "content"),
    "torch_empty_cache_steps": _Row("Precision and memory", "free", COUNT),
    # ---------------------------------------------------------------------------------------- schedule and optimizer
    "adam_beta1": _Row("Schedule and optimizer", "same", PART),
    "adam_beta2": _Row("Schedule and optimizer", "same", PART),
    "adam_epsilon": _Row("Schedule and optimizer", "same", POSITIVE),
    # Divides the loss by the labels of all processes instead of its own.
    "average_tokens_across_devices": _Row("Schedule and optimizer", "same"),
    "label_smoothing_factor": _Row("Schedule and optimizer", "same", FRACTION),
    "learning_rate": _Row("Schedule and optimizer", "same", NOT_NEGATIVE),
    "lr_scheduler_kwargs": _Row("Schedule and optimizer", "same"),
    "lr_scheduler_type": _Row("Schedule and optimizer", "same"),
    "max_grad_norm": _Row("Schedule and optimizer", "same", Range(instead="0 turns clipping off")),
    "max_steps": _Row(
        "Schedule and optimizer",
        "length",
        Range(least=-1, most=MOST_COUNTED, instead="-1 leaves it to --num_train_epochs"),
    ),
    "neftune_noise_alpha": _Row("Schedule and optimizer", "same", NOT_NEGATIVE),
    "num_train_epochs": _Row("Schedule and optimizer", "length", Range(most=MOST_COUNTED)),
    "optim": _Row("Schedule and optimizer", "same", default_in_words="adamw_torch_fused"),
    "optim_args": _Row("Schedule and optimizer", "same"),
    "optim_target_modules": _Row("Schedule and optimizer", "same"),
    "warmup_steps": _Row("Schedule and optimizer", "same", Range(most=MOST_COUNTED, is_step=True)),
    "weight_decay": _Row("Schedule and optimizer", "same", NOT_NEGATIVE),
    # ---------------------------------------------------------------------------------------------------- evaluation
    # Measuring leaves weights and random numbers alone.
    "do_eval": _Row("Evaluation", "free"),
    "eval_delay": _Row("Evaluation", "free", Range(most=MOST_COUNTED)),
    "eval_on_start": _Row("Evaluation", "free"),
    "eval_steps": _Row("Evaluation", "free", EVERY, default_in_words="those of an epoch, or fewer in a long epoch"),
    "eval_strategy": _Row("Evaluation", "free", default_in_words="steps"),
    "greater_is_better": _Row("Evaluation", "free"),
    "load_best_model_at_end": _Row("Evaluation", "free"),
    "metric_for_best_model": _Row("Evaluation", "free", default_in_words="loss"),
    "per_device_eval_batch_size": _Row("Evaluation", "free", COUNT),
    # -------------------------------------------------------------------------------------------- saving and resuming
    "hub_model_id": _Row("Saving and resuming", "free", help=_HUB_MODEL_ID),
    "hub_private_repo": _Row("Saving and resuming", "free", help=_HUB_PRIVATE_REPO),
    "push_to_hub": _Row("Saving and resuming", "free", help=_PUSH_TO_HUB),
    # With it a resumed run begins its epoch again, with records that it has seen.
    "ignore_data_skip": _Row("Saving and resuming", "same"),
    "output_dir": _Row("Saving and resuming", "free"),
    "restore_callback_states_from_checkpoint": _Row("Saving and resuming", "free", default_in_words="true, always"),
    "resume_from_checkpoint": _Row("Saving and resuming", "free"),
    "save_on_each_node": _Row("Saving and resuming", "free"),
    "save_only_model": _Row("Saving and resuming", "free"),
    "save_steps": _Row("Saving and resuming", "free", EVERY),
    "save_strategy": _Row("Saving and resuming", "free"),
    "save_total_limit": _Row(
        "Saving and resuming",
        "free",
        Range(least=0, most=MOST_COUNTED, instead="0 keeps all checkpoints"),
    ),
    # ------------------------------------------------------------------------------------------ machine and processes
    # How data arrive, and how processes exchange gradients: the sums are the same but for their order.
    "accelerator_config": _Row("Machine and processes", "machine"),
    # Batches would be trained on in the order in which workers finish them.
    "dataloader_in_order": _Row("Machine and processes", "same"),
    "dataloader_multiprocessing_context": _Row("Machine and processes", "machine"),
    "dataloader_num_workers": _Row(
        "Machine and processes",
        "machine",
        Range(
            least=0,
            most=MOST_COUNTED,
            instead="0 reads in the run's own process",
        ),
        default_in_words="by the machine's cores; 0 on a CPU",
    ),
    "dataloader_persistent_workers": _Row("Machine and processes", "machine"),
    "dataloader_pin_memory": _Row("Machine and processes", "machine"),
    "dataloader_prefetch_factor": _Row("Machine and processes", "machine", Range(least=1, most=1024)),
    "ddp_backend": _Row("Machine and processes", "machine"),
    "ddp_broadcast_buffers": _Row("Machine and processes", "machine"),
    "ddp_bucket_cap_mb": _Row("Machine and processes", "machine", COUNT),
    # Every process runs every trained part in every step, so there is nothing to look for.
    "ddp_find_unused_parameters": _Row("Machine and processes", "machine", default=False),
    "ddp_static_graph": _Row("Machine and processes", "machine"),
    "ddp_timeout": _Row("Machine and processes", "machine", COUNT),
    # A checkpoint records its engine, and another engine is refused.
    "deepspeed": _Row("Machine and processes", "machine"),
    "fsdp": _Row("Machine and processes", "machine"),
    "fsdp_config": _Row("Machine and processes", "machine"),
    "local_rank": _Row("Machine and processes", "machine", Range(least=-1, most=MOST_COUNTED)),
    "use_cpu": _Row("Machine and processes", "machine", default_in_words="true without a GPU"),
    # ------------------------------------------------------------------------------------------------------- logging
    "disable_tqdm": _Row("Logging", "free", default_in_words="true unless on a terminal"),
    "include_num_input_tokens_seen": _Row("Logging", "free"),
    "log_level": _Row("Logging", "free", choices=_LOG_LEVELS),
    "log_level_replica": _Row("Logging", "free", choices=_LOG_LEVELS),
    "log_on_each_node": _Row("Logging", "free"),
    "logging_first_step": _Row("Logging", "free"),
    "logging_nan_inf_filter": _Row("Logging", "free", default=False),  # a loss that is not a number must be seen
    "logging_steps": _Row("Logging", "free", EVERY, default=10, default_in_words="10, or fewer in a short run"),
    "logging_strategy": _Row("Logging", "free"),
    "project": _Row("Logging", "free"),
    "report_to": _Row("Logging", "free"),
    "run_name": _Row("Logging", "free"),
    "skip_memory_metrics": _Row("Logging", "free"),
    "trackio_bucket_id": _Row("Logging", "free"),
    "trackio_space_id": _Row("Logging", "free"),
    "trackio_static_space_id": _Row("Logging", "free"),
    # ----------------------------------------------------------------- fixed, refused, or without effect on this run
    "auto_find_batch_size": _Row("Others of transformers", "same"),
    "batch_eval_metrics": _Row("Others of transformers", "free"),
    "debug": _Row("Others of transformers", "free"),
    "do_predict": _Row("Others of transformers", "free"),
    "do_train": _Row("Others of transformers", "free", default_in_words="true, always"),
    "enable_jit_checkpoint": _Row("Others of transformers", "free"),
    "eval_accumulation_steps": _Row("Others of transformers", "free", COUNT),
    "eval_do_concat_batches": _Row("Others of transformers", "free"),
    "eval_use_gather_object": _Row("Others of transformers", "free"),
    "hub_always_push": _Row("Others of transformers", "free"),
    "hub_revision": _Row("Others of transformers", "free"),
    "hub_strategy": _Row("Others of transformers", "free"),
    "hub_token": _Row("Others of transformers", "free"),
    "include_for_metrics": _Row("Others of transformers", "free"),
    "label_names": _Row("Others of transformers", "free", default_in_words="labels, always"),
    "length_column_name": _Row("Others of transformers", "free"),
    "liger_kernel_config": _Row("Others of transformers", "same"),
    "parallelism_config": _Row("Others of transformers", "machine"),
    "prediction_loss_only": _Row("Others of transformers", "free", default_in_words="true, always"),
    "remove_unused_columns": _Row("Others of transformers", "free", default_in_words="false, always"),
    "use_cache": _Row("Others of transformers", "free"),
    "use_liger_kernel": _Row("Others of transformers", "same"),
}
_UNKNOWN = _Row("Others of transformers", "same")
"""A field of a later transformers counts when a run is resumed, until it is known to change no number."""


@cache
def all_settings() -> Mapping[str, Setting]:
    """Return every setting of a run by its name: ours first."""
    return {**our_settings(), **_read_transformers()}


@cache
def our_settings() -> Mapping[str, Setting]:
    """Return our settings by their names, in the order in which they are declared."""
    return {item.name: setting_of(item) for item in fields(RunArguments)}


def is_explained_here(name: str) -> bool:
    """Return whether the text of a setting is ours, not that of transformers."""
    return name in our_settings() or bool(_TRANSFORMERS.get(name, _UNKNOWN).help)


def transformers_defaults(objective: str, *, use_lora: bool) -> dict[str, Any]:
    """Return the fields of ``TrainingArguments`` that have a value of their own here where no flag says one."""
    recipe = {_named(name): value for name, value in recipe_of(objective, use_lora=use_lora).items()}
    of_every_run = {name: row.default for name, row in _TRANSFORMERS.items() if row.default is not None}
    return of_every_run | {name: value for name, value in recipe.items() if name not in our_settings()}


def _named(name: str) -> str:
    """Return the name that the installed transformers has for a field: 5.20, the last for Python 3.10, an old one."""
    return name if name in all_settings() else "gradient_checkpointing"


def _read_transformers() -> dict[str, Setting]:
    """Read the fields of ``TrainingArguments`` from the source of the installed transformers."""
    found = importlib.util.find_spec("transformers")
    folder = Path(cast("str", cast("ModuleSpec", found).origin)).parent  # a requirement of this package
    trees = [
        ast.parse((folder / name).read_text(encoding="utf-8")) for name in ("trainer_utils.py", "training_args.py")
    ]
    classes = {node.name: node for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)}
    choices = {
        name: _values(node) for name, node in classes.items() if any("Enum" in ast.unparse(base) for base in node.bases)
    }
    settings: dict[str, Setting] = {}
    for name, annotation, default, stated in _declared(classes["TrainingArguments"]):
        row = _TRANSFORMERS.get(name, _UNKNOWN)
        kind = Kind("truth or word", choices=row.words) if row.words else read_kind(annotation, choices)
        choices_of = row.choices or tuple(stated.get("choices") or kind.choices)
        refused = tuple(each for each in choices_of if name == "optim" and reason_against(each))
        default = default if row.default is None else row.default
        settings[name] = Setting(
            name=name,
            kind=replace(kind, choices=tuple(each for each in choices_of if each not in refused), refused=refused),
            default=recipe_of("sft", use_lora=False)[name] if name in RECIPE_NAMES else default,
            help=row.help or str(stated.get("help", "")).replace("%%", "%"),
            group=row.group,
            resume=row.resume,
            range=row.range,
            default_in_words=describe_value(name) if name in RECIPE_NAMES else row.default_in_words,
            bare="true" if stated.get("const") else None,
        )
    return settings


def _declared(node: ast.ClassDef) -> Iterator[tuple[str, str, Any, dict[str, Any]]]:
    """Yield name, type, default and metadata of each field of a dataclass that its constructor takes."""
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and isinstance(item.value, ast.Call):
            stated = {word.arg: word.value for word in item.value.keywords}
            metadata = stated.get("metadata")
            words = zip(metadata.keys, metadata.values, strict=True) if isinstance(metadata, ast.Dict) else ()
            if _literal(stated.get("init")) is not False:
                about = {_literal(key): _literal(value) for key, value in words}
                yield item.target.id, ast.unparse(item.annotation), _literal(stated.get("default")), about


def _values(node: ast.ClassDef) -> tuple[str, ...]:
    """Return the values of an enumeration."""
    return tuple(_literal(item.value) for item in node.body if isinstance(item, ast.Assign))


def _literal(node: ast.expr | None) -> Any:
    """Return a value that is written out; None for one that is computed."""
    try:
        return None if node is None else ast.literal_eval(node)
    except ValueError:
        return None
