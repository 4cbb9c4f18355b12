"""Declares what is evaluated, saved, shown and started while a run goes on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from minicpmv.inference.batching import BATCH_SIZE
from minicpmv.training.flags.declared.recipe import MEASURED
from minicpmv.training.flags.fields import COUNT, COUNT_OR_NONE, declare

__all__ = ["CourseArguments"]


@dataclass(frozen=True, kw_only=True)
class CourseArguments:
    """The course of a run."""

    eval_samples: int = declare(
        2,
        "Records of each validation set whose first question the model answers before the first step and at each "
        "evaluation: the first ones, greedily, into OUTPUT_DIR/samples.jsonl. 0: none.",
        group="Evaluation",
        resume="free",
        range=COUNT_OR_NONE,
    )
    eval_sample_tokens: int = declare(
        64, "Tokens of the longest such answer.", group="Evaluation", resume="free", range=COUNT
    )
    eval_metrics: str | None = declare(
        None,
        "Metrics of the model's answers to the validation sets, measured at each evaluation and logged as eval_METRIC, "
        "or as eval_NAME_METRIC with several sets: --eval_metrics anls,exact_match (`minicpmv eval --metrics list` "
        "lists all). --keep_best true --metric_for_best_model eval_anls keeps the best checkpoint by one of them.",
        group="Evaluation",
        resume="free",
    )
    eval_metrics_records: int | None = declare(
        None, "Records answered for them, the first ones. Default: all.", group="Evaluation", resume="free", range=COUNT
    )
    eval_max_new_tokens: int = declare(
        64, "Tokens of the longest answer that is measured.", group="Evaluation", resume="free", range=COUNT
    )
    answer_batch_size: int = declare(
        BATCH_SIZE,
        "Records that a process answers at once, for --eval_metrics, --measure and samples; halved when they do not "
        "fit in the device's memory. --per_device_eval_batch_size applies to the loss alone.",
        group="Evaluation",
        resume="free",
        range=COUNT,
    )
    keep_best: bool = declare(
        False,
        "Save at each evaluation, and end with the best of these checkpoints instead of the last: by the loss, or by "
        "--metric_for_best_model. The same as --load_best_model_at_end.",
        group="Evaluation",
        resume="free",
    )
    early_stopping: int = declare(
        0,
        "End training after this many evaluations in a row without improvement; implies --keep_best. 0: never.",
        group="Evaluation",
        resume="free",
        range=COUNT_OR_NONE,
    )
    measure: int = declare(
        MEASURED,
        "Validation records, spread over all, that the model answers before the first step and after the last. The "
        "scores are printed at the end, and both answers are in the report. 0: none.",
        group="Evaluation",
        resume="free",
        range=COUNT_OR_NONE,
    )
    save_dtype: Literal["auto", "float32", "bfloat16", "float16"] = declare(
        "auto",
        "Precision of the full checkpoint that is saved at the end. auto: that of the checkpoint it started from.",
        group="Saving and resuming",
        resume="free",
    )
    save_rounding: Literal["nearest", "stochastic"] = declare(
        "nearest",
        "How a full model that was trained in float32 is rounded to that precision. nearest: updates smaller than half "
        "the distance between two numbers vanish. stochastic: each value goes to one of its two neighbours, the nearer "
        "one with higher probability, which keeps every update on average; it depends on --seed.",
        group="Saving and resuming",
        resume="free",
    )
    verify_saved: bool = declare(
        True,
        "At the end, load what was saved in a fresh process, compare every tensor and the loss on a few records with "
        "the trained model, and write the result to OUTPUT_DIR/verification.json; a difference makes the run fail.",
        group="Saving and resuming",
        resume="free",
    )
    overwrite_output_dir: bool = declare(
        False,
        "Start again in a directory with checkpoints of an earlier run: delete them.",
        group="Saving and resuming",
        resume="free",
    )
    allow_other_base: bool = declare(
        False,
        "Continue a checkpoint, or the adapter of --lora_weight_path, with another base model of the same shape than "
        "the one it was trained on. run.json records it.",
        group="Saving and resuming",
        resume="free",
    )
    allow_changed_images: bool = declare(
        False,
        "Continue a checkpoint although images have changed since the run that wrote it read them. run.json records "
        "it.",
        group="Saving and resuming",
        resume="free",
    )
    num_processes: int | None = declare(
        None,
        "Processes on this machine, each on a GPU of its own. Default: one for each GPU (CUDA_VISIBLE_DEVICES hides "
        "some), one on a CPU. A launcher such as torchrun decides it instead.",
        group="Machine and processes",
        resume="machine",
        range=COUNT,
    )
    dry_run: bool = declare(
        False,
        "Check everything that can be checked first: flags, data, weights, one optimizer step on the costliest row, "
        "memory, disk and time; then end. Nothing is written.",
        group="Machine and processes",
        resume="free",
    )
    report: bool = declare(
        True,
        "At the end, write OUTPUT_DIR/report.html, a page with curves, answers, data and settings, and "
        "OUTPUT_DIR/loss.png, the curve of the loss. `minicpmv report OUTPUT_DIR` does so at any time.",
        group="Logging",
        resume="free",
    )
    logging_dir: str | None = declare(
        None, "Folder for TensorBoard files. Default: OUTPUT_DIR/runs.", group="Logging", resume="free"
    )
