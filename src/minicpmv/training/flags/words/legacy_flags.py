"""Translates flags of the 2024 scripts that have been renamed or dropped since.

Each is renamed, or accepted because it states what happens anyway, or refused with the reason. None is ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from minicpmv.errors import UsageError
from minicpmv.wording import FALSE, TRUE

__all__ = ["LEGACY_NAMES", "translate_legacy"]

_RENAMED = {
    "evaluation_strategy": "eval_strategy",
    "gradient_checkpointing": "activation_checkpointing",
    "gradient_checkpointing_kwargs": "activation_checkpointing_kwargs",
    "no_cuda": "use_cpu",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "push_to_hub_model_id": "hub_model_id",
    "push_to_hub_token": "hub_token",
}

# Both ways: the installed transformers may not have today's name yet.
_OTHER_NAME = _RENAMED | {today: old for old, today in _RENAMED.items()}

# flag -> values that state what happens anyway, and why another value cannot be honoured
_SETTLED: dict[str, tuple[tuple[str, ...], str]] = {
    "dispatch_batches": (("false", "none"), "every process reads its own batches"),
    "do_predict": (("false",), "this command trains; predictions are made with `minicpmv chat`"),
    "fp16_backend": (("auto",), "there is one mixed-precision backend, torch's own"),
    "fp16_opt_level": (("o1",), "it belonged to NVIDIA Apex, which transformers no longer uses"),
    "fsdp_min_num_params": (("0",), "sharding by parameter count was removed from transformers"),
    "fsdp_transformer_layer_cls_to_wrap": (
        ("granitedecoderlayer", "llamadecoderlayer", "qwen2decoderlayer", "qwen3decoderlayer"),
        "each layer of language model and vision tower is gathered by itself",
    ),
    "half_precision_backend": (("auto",), "there is one mixed-precision backend, torch's own"),
    "include_inputs_for_metrics": (("false",), "evaluation computes the loss only"),
    "include_tokens_per_second": (("true",), "tokens per second are always logged"),
    "jit_mode_eval": (("false",), "evaluation runs the model as it is trained"),
    "lora_layer_replication": (
        ("none", ""),
        "PEFT replicates layers only in bare language models, not inside a vision-language model",
    ),
    "past_index": (("-1",), "no MiniCPM-V model carries a state between batches"),
    "ray_scope": (("last",), "there is no hyperparameter search here"),
    "save_safetensors": (("true",), "weights are always saved as safetensors"),
    "split_batches": (("false",), "--per_device_train_batch_size counts for each process"),
    "tpu_metrics_debug": (("false",), "TPUs are not supported"),
    "use_ipex": (("false",), "transformers no longer uses the Intel extension; torch has its kernels"),
    "use_legacy_prediction_loop": (("false",), "the legacy loop is gone"),
    "use_mps_device": (
        ("true",),
        "Apple GPUs have not been tested and are refused; --use_cpu true trains on the CPU",
    ),
}


def translate_legacy(arguments: Sequence[str], *, known: Collection[str]) -> tuple[list[str], list[str]]:
    """Rewrite old flags in today's spelling.

    Args:
        arguments: The command line without the program's name.
        known: Today's flags. transformers 5.20, the last for Python 3.10, still has some of the old ones instead.

    Returns:
        The command line in today's spelling, and a notice for each flag that was rewritten or dropped.

    Raises:
        UsageError: An old flag asks for something that can no longer be done.
    """
    rewritten: list[str] = []
    notices: list[str] = []
    position = 0
    while position < len(arguments):
        end = position + 1
        while end < len(arguments) and not arguments[end].startswith("--"):
            end += 1
        group = list(arguments[position:end])
        position = end
        if not group[0].startswith("--"):
            rewritten += group
            continue
        flag, equals, inline = group[0][2:].partition("=")
        replaced, told = _translate(flag.replace("-", "_"), ([inline] if equals else []) + group[1:], known)
        rewritten += group if replaced is None else replaced
        notices += told
    return rewritten, notices


def _translate(name: str, values: list[str], known: Collection[str]) -> tuple[list[str] | None, list[str]]:
    """Return today's words for one flag (None: it is up to date) and the notices about it."""
    other = _OTHER_NAME.get(name)
    if other in known and (name in _RENAMED or name not in known):
        today = other
        # Fields that may also be unset take no bare form, which the old scripts used.
        return [f"--{today}", *(values or ["true"])], [f"--{name} is now --{today}"]
    if name in _SETTLED:
        accepted, reason = _SETTLED[name]
        if (values or ["true"])[0].lower() not in accepted:
            expected = " or ".join(filter(None, accepted))
            raise UsageError(
                f"--{name}: found {' '.join(values) or 'true'!r}, expected {expected}: {reason}\n  fix: remove the flag"
            )
        return [], [f"--{name}: {reason}"]
    if name in _SPECIAL:
        return _SPECIAL[name](values)
    return None, []


def _warmup_ratio(values: list[str]) -> tuple[list[str], list[str]]:
    try:
        ratio = float(values[0])
    except (IndexError, ValueError):
        ratio = -1.0
    if not 0 <= ratio < 1:
        raise UsageError(
            f"--warmup_ratio: found {' '.join(values)!r}, expected a share of the steps from 0 to below 1\n"
            "  fix: use --warmup_steps for a number of steps"
        )
    return ["--warmup_steps", values[0]], ["--warmup_ratio is now --warmup_steps with a value below 1"]


def _group_by_length(values: list[str]) -> tuple[list[str], list[str]]:
    if _truth("group_by_length", values):
        today = ["--train_sampling_strategy", "group_by_length"]
        return today, [f"--group_by_length is now {' '.join(today)}"]
    return [], ["--group_by_length false: batches are drawn at random anyway"]


def _adafactor(values: list[str]) -> tuple[list[str], list[str]]:
    if _truth("adafactor", values):
        return ["--optim", "adafactor"], ["--adafactor is now --optim adafactor"]
    return [], ["--adafactor false: --optim says which optimizer is used"]


def _optim(values: list[str]) -> tuple[list[str] | None, list[str]]:
    renamed = {"adamw_hf": "adamw_torch", "adamw_apex_fused": "adamw_torch_fused"}
    if values and values[0] in renamed:
        today = renamed[values[0]]
        return ["--optim", today], [
            f"--optim {values[0]} has been removed from transformers; using the equivalent {today}"
        ]
    return None, []


def _fsdp(values: list[str]) -> tuple[list[str] | None, list[str]]:
    """Read the list of words, in one argument or several, that ``--fsdp`` used to take."""
    words = " ".join(values).lower().split()
    if values and not words:
        return [], []  # an empty variable of a script
    if not words or words[0] in TRUE + FALSE:
        return None, []
    if set(words) <= {"full_shard", "auto_wrap"}:
        return ["--fsdp", "true"], [f"--fsdp {' '.join(words)} is now --fsdp true"]
    today = {"offload": '"cpu_offload": true', "shard_grad_op": '"reshard_after_forward": false'}
    settings = ", ".join(today[word] for word in words if word in today)
    raise UsageError(
        f"--fsdp: found {' '.join(words)!r}, expected true or false; everything else belongs in --fsdp_config\n"
        f"  fix: --fsdp true" + (f" --fsdp_config '{{{settings}}}'" if settings else "")
    )


def _truth(name: str, values: list[str]) -> bool:
    word = (values or ["true"])[0].lower()
    if word not in TRUE + FALSE:
        raise UsageError(f"--{name}: found {word!r}, expected true or false\n  fix: --{name} true")
    return word in TRUE


_SPECIAL: dict[str, Callable[[list[str]], tuple[list[str] | None, list[str]]]] = {
    "adafactor": _adafactor,
    "fsdp": _fsdp,
    "group_by_length": _group_by_length,
    "optim": _optim,
    "warmup_ratio": _warmup_ratio,
}

LEGACY_NAMES = frozenset((*_OTHER_NAME, *_SETTLED, *_SPECIAL))
"""Names that are read here, whether or not transformers still has them."""
