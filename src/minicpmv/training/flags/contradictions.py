"""Refuses settings that are out of range, contradict each other or could have no effect: ``check_*`` changes nothing.

It looks at the command line alone. What depends on the machine is refused in ``resolution``, what depends on the
model's modules in ``learning``, such as an expression that hits none of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import fields
from typing import Any

from minicpmv.data.sources.validation import parse_split
from minicpmv.errors import UsageError
from minicpmv.evaluation.metrics.registry import find_metrics, split_names
from minicpmv.training.flags.declarations import RunArguments
from minicpmv.training.flags.declared.learning import BESIDE_LORA, LearningArguments

__all__ = ["check_contradictions", "check_required"]

_NO_VALIDATION = "found no validation data, expected --eval_data_path or --validation_split"


def check_required(run: RunArguments, training: Mapping[str, Any]) -> None:
    """Refuse a command line without model, data or output directory.

    Raises:
        UsageError: One is missing.
    """
    missing = [f"--{name}" for name in ("model_name_or_path", "data_path") if not getattr(run, name)]
    missing += [] if training.get("output_dir") else ["--output_dir"]
    if missing:
        raise UsageError(
            f"command line: found no {', '.join(missing)}, expected each of them\n  fix: add {' '.join(missing)}"
        )


def check_contradictions(run: RunArguments, training: Mapping[str, Any], given: Set[str]) -> None:
    """Refuse settings that do not go together.

    Args:
        run: Our settings; ``q_lora`` has set ``use_lora``.
        training: Fields of ``TrainingArguments`` that were given.
        given: Names of all flags that were given.

    Raises:
        UsageError: Settings contradict each other, or one could have no effect.
    """
    _check_learning(run, given)
    _check_lora_start(run, given)
    _check_beside_lora(run)
    _check_validation(run, training)
    _check_samples(run, given)
    _check_eval_metrics(run, given)
    _check_policies(run, training)
    _check_preferences(run, given)


# ------------------------------------------------------------------------------------------------------ what learns


def _check_learning(run: LearningArguments, given: Set[str]) -> None:
    if run.use_lora and run.tune_llm:
        raise UsageError(
            "--tune_llm true --use_lora true: found both, expected one: LoRA keeps the language model frozen\n"
            "  fix: remove --tune_llm, or --use_lora to train the whole language model"
        )
    if not run.use_lora:
        of_lora = {"init_lora_weights", "use_dora", "use_rslora"} | {name for name in given if name.startswith("lora_")}
        # The official full-training script passes such flags without a value.
        idle = sorted(f"--{name}" for name in given & of_lora if getattr(run, name))
        if idle:
            raise UsageError(
                f"{', '.join(idle)}: found without --use_lora true, expected both\n  fix: add it, or remove these flags"
            )
    if run.lora_layers_pattern and not run.lora_layers_to_transform:
        raise UsageError(
            "--lora_layers_pattern: found without --lora_layers_to_transform, expected both\n"
            "  fix: add it, or remove this flag"
        )


def _check_lora_start(run: LearningArguments, given: Set[str]) -> None:
    if run.init_lora_weights not in ("true", "gaussian") and not run.changes_base:
        raise UsageError(
            f"--init_lora_weights: found {run.init_lora_weights!r}, expected true, gaussian, pissa, pissa_niter_N or "
            "olora\n  fix: --init_lora_weights true, which is the default"
        )
    if not run.changes_base:
        return
    start = f"--init_lora_weights {run.init_lora_weights}"
    if run.q_lora:
        raise UsageError(
            f"{start} --q_lora true: found both, expected one: it subtracts the initial matrices from the base, which "
            "quantized weights cannot represent\n  fix: remove one of them"
        )
    if run.lora_weight_path:
        raise UsageError(
            f"{start} --lora_weight_path: found both, expected one: an adapter's weights are already initialised\n"
            "  fix: remove one of them"
        )
    if run.lora_dropout and "lora_dropout" in given:
        raise UsageError(
            f"--lora_dropout {run.lora_dropout:g} {start}: found both, expected no dropout: it would drop the largest "
            "part of the base's own weights\n  fix: remove --lora_dropout"
        )


def _check_beside_lora(run: LearningArguments) -> None:
    """Compare the ways to name what is trained in addition to LoRA."""
    listed = run.listed_beside_lora
    if run.lora_preset == "adapters_only":
        others = [f"--{name} true" for name in BESIDE_LORA if getattr(run, name)]
        others += [f"--lora_modules_to_save {run.lora_modules_to_save}"] if listed else []
        if others:
            raise UsageError(
                f"--lora_preset adapters_only: found {', '.join(others)}, expected nothing trained but adapters\n"
                "  fix: remove it (LORA_PRESET=adapters_only of the script does so), or remove --lora_preset"
            )
    if run.lora_preset == "official" and listed == []:
        raise UsageError(
            "--lora_preset official --lora_modules_to_save none: found both, expected one: the official recipe fully "
            "trains modules in addition to LoRA\n  fix: remove one of them, or use --lora_preset adapters_only"
        )


# ------------------------------------------------------------------------------------------------------- evaluation


def _check_validation(run: RunArguments, training: Mapping[str, Any]) -> None:
    _ = run.train_sources, run.eval_sources, run.split  # their own faults come first
    if run.validation_split is not None and run.eval_data_path and parse_split(run.validation_split) is not None:
        raise UsageError(
            f"--validation_split {run.validation_split} --eval_data_path: found both, expected one: validation records "
            "are either held out or in a file of their own\n  fix: remove one of them"
        )
    if run.split is not None and not run.check_first:
        raise UsageError(
            f"--validation_split {run.validation_split} --check_first false: found both, expected one: what is held "
            "out depends on all records\n  fix: remove one of them, or put the records into a file for --eval_data_path"
        )
    asked = [f"--{name}" for name in ("early_stopping", "keep_best") if getattr(run, name)]
    asked += ["--load_best_model_at_end"] if training.get("load_best_model_at_end") else []
    if asked and not run.may_evaluate:
        raise UsageError(f"{asked[0]}: {_NO_VALIDATION}\n  fix: add the data to judge by, or remove the flag")


def _check_samples(run: RunArguments, given: Set[str]) -> None:
    if "eval_samples" in given and run.eval_samples and not run.may_evaluate:
        raise UsageError(f"--eval_samples: {_NO_VALIDATION}\n  fix: add the data to ask about, or remove the flag")
    if "eval_sample_tokens" in given and not run.may_evaluate:
        raise UsageError(f"--eval_sample_tokens: {_NO_VALIDATION}\n  fix: add the data, or remove the flag")
    if "eval_sample_tokens" in given and not run.eval_samples:
        raise UsageError(
            "--eval_sample_tokens: found without samples, expected --eval_samples above 0\n  fix: remove the flag"
        )


def _check_eval_metrics(run: RunArguments, given: Set[str]) -> None:
    for name in ("eval_metrics_records", "eval_max_new_tokens"):
        if name in given and run.eval_metrics is None:
            raise UsageError(
                f"--{name}: found without --eval_metrics, expected both\n  fix: add it, or remove --{name}"
            )
    is_asked = run.may_evaluate and (run.eval_metrics or run.eval_samples or run.measure)
    if "answer_batch_size" in given and not is_asked:
        raise UsageError(
            "--answer_batch_size: found no record that is answered, expected validation data and --eval_metrics, "
            "--eval_samples or --measure\n  fix: remove the flag"
        )
    if run.eval_metrics is None:
        return
    find_metrics(split_names(run.eval_metrics), flag="--eval_metrics")
    if not run.may_evaluate:
        raise UsageError(f"--eval_metrics: {_NO_VALIDATION}\n  fix: add the data to measure on, or remove the flag")


# --------------------------------------------------------------------------------------------------------- policies


def _check_policies(run: RunArguments, training: Mapping[str, Any]) -> None:
    needing_lengths = {
        "--packing true": run.packing,
        "--train_sampling_strategy group_by_length": training.get("train_sampling_strategy") == "group_by_length",
        "--on_long_record skip": run.on_long_record == "skip" and run.on_bad_record != "skip",
    }
    for flag, is_given in needing_lengths.items():
        if is_given and not run.check_first:
            raise UsageError(
                f"--check_first false {flag}: found both, expected one: it needs the length of every record before the "
                "first step\n  fix: remove one of them"
            )
    if run.max_bad_share is not None and run.on_bad_record != "skip":
        raise UsageError(
            "--max_bad_share: found without --on_bad_record skip, expected both\n"
            "  fix: add it, or remove --max_bad_share"
        )
    if run.truncate_answers and run.on_long_record == "error":
        raise UsageError(
            "--truncate_answers true --on_long_record error: found both, expected one way to treat a long record\n"
            "  fix: remove one of them"
        )
    if run.use_lora and run.save_rounding != "nearest":
        raise UsageError(
            "--save_rounding stochastic --use_lora true: found both, expected one: LoRA's tensors are not rounded\n"
            "  fix: remove --save_rounding"
        )


# ------------------------------------------------------------------------------------------------------- preferences

_OF_PREFERENCES = tuple(
    field.name
    for field in fields(RunArguments)
    if field.metadata["group"] == "Preferences" and field.name != "objective"
)
_ACTS_ON = {
    "label_smoothing": ("sigmoid", "robust", "exo_pair"),
    "simpo_gamma": ("simpo",),
    "discopop_tau": ("discopop",),
}
"""Setting -> the losses that read it."""


def _check_preferences(run: RunArguments, given: Set[str]) -> None:
    asked = [name for name in _OF_PREFERENCES if name in given]
    mixture = run.mixture
    if mixture is None:
        if asked:
            raise UsageError(
                f"--{', --'.join(asked)}: found without --objective dpo, expected both\n"
                "  fix: add it, or remove the flag"
            )
        return
    for name, losses in _ACTS_ON.items():
        if name in given and getattr(run, name) and not set(losses) & set(mixture.names):
            raise UsageError(
                f"--{name}: found with --preference_loss {mixture}, expected {' or '.join(losses)}, which read it\n"
                f"  fix: remove --{name}, or choose another loss"
            )
    if "exo_pair" in mixture.names and not run.label_smoothing:
        raise UsageError(
            "--preference_loss exo_pair: found --label_smoothing 0, expected more: it is part of the formula\n"
            "  fix: --label_smoothing 0.001"
        )
    if mixture.is_unpaired and run.segment_weight != 1:
        raise UsageError(
            f"--segment_weight: found with --preference_loss {mixture}, expected a loss of pairs: they are where two "
            "answers differ\n  fix: remove it"
        )
    if run.truncate_answers:
        raise UsageError(
            "--truncate_answers true --objective dpo: found both, expected one: a cut answer is another answer\n"
            "  fix: remove --truncate_answers; --model_max_length is the length of question and answers together"
        )
    of_reference = [name for name in ("precompute_ref_log_probs", "reference_cache") if name in given]
    if of_reference and not mixture.needs_reference:
        raise UsageError(
            f"--{of_reference[0]}: found with --preference_loss {mixture}, expected a loss that compares with a "
            "reference\n  fix: remove the flag"
        )
    if mixture.needs_reference and not run.precompute_ref_log_probs:
        _check_adapter_off(run, given)


def _check_adapter_off(run: RunArguments, given: Set[str]) -> None:
    """Refuse to switch an adapter off where what is left is not the model that the run started from."""
    found = (
        "training without LoRA"
        if not run.use_lora
        else f"--init_lora_weights {run.init_lora_weights}"
        if run.changes_base
        else "--lora_weight_path"
        if run.lora_weight_path
        else f"--lora_bias {run.lora_bias}"
        if run.lora_bias != "none"
        else None
    )
    if found is not None:
        raise UsageError(
            f"--precompute_ref_log_probs false: found {found}, expected a new adapter: without that, the model is not "
            "the one that the run started from, and no second copy is kept\n"
            "  fix: remove the flag; the reference's values are then stored before the first step"
        )
    if "reference_cache" in given:
        raise UsageError(
            "--reference_cache --precompute_ref_log_probs false: found both, expected one: nothing is stored\n"
            "  fix: remove one of them"
        )
