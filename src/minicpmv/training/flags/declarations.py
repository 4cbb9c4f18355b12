"""Declares our own settings of a run, each once. Those of transformers are in ``catalogue``.

A field says the setting's type and default, its metadata everything else: ``--help``, the ranges and the comparison of
a resumed run are made from them. Nothing is refused here (``contradictions``) or filled in (``resolution``, and
``learning.switches`` for what needs the model's modules).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from minicpmv.data.records.record import Kind
from minicpmv.data.sources.mixing import DataSource, parse_source, parse_validation_sets
from minicpmv.data.sources.validation import SplitSize, parse_split
from minicpmv.inference.batching import BATCH_SIZE
from minicpmv.losses.mixture import Mixture, parse_mixture
from minicpmv.releases.row import DEFAULT_LORA_TARGET
from minicpmv.releases.table import LLM_TYPES
from minicpmv.training.flags.fields import (
    COUNT,
    COUNT_OR_NONE,
    FRACTION,
    NOT_NEGATIVE,
    PART,
    POSITIVE,
    Range,
    declare,
    list_of,
    switch,
)

__all__ = ["BESIDE_LORA", "RATED", "LearningArguments", "RunArguments"]

RATED = ("vision", "resampler", "embeddings", "lora")
"""What can have a learning rate and a weight decay of its own: ``--vision_lr``, ``--vision_weight_decay``, ..."""

BESIDE_LORA = ("tune_embeddings", "tune_resampler", "tune_vision", "tune_output_head")
"""Flags of what can be trained fully beside LoRA."""

_CHANGES_BASE = r"pissa(_niter_[1-9]\d*)?|olora"
_OWN_RATE = Range(without_least=True, instead="freeze the part instead")
_MOST_RANK = 65_536
"""Wider than any layer; matrices of a higher rank would fill any memory before anything is reported."""


@dataclass(frozen=True, kw_only=True)
class LearningArguments:
    """What learns. A switch that is None is resolved from the others, once the model's modules are known."""

    tune_llm: bool | None = switch(
        "Train the whole language model. Default: true; false with LoRA. Embeddings and head have flags of their own.",
        group="What learns",
        resume="same",
    )
    tune_vision: bool | None = switch(
        "Train the whole vision tower. Default: true, unless it gets LoRA.", group="What learns", resume="same"
    )
    tune_resampler: bool | None = switch(
        "Train the whole resampler. Default: true, unless it gets LoRA.", group="What learns", resume="same"
    )
    tune_embeddings: bool | None = switch(
        "Train the token embeddings. Default: as --tune_llm; with LoRA true, as in the official recipe, unless the "
        "output head has the same weights.",
        group="What learns",
        resume="same",
    )
    tune_output_head: bool | None = switch(
        "Train the projection onto the vocabulary. Default: as --tune_llm; with LoRA false.",
        group="What learns",
        resume="same",
    )
    vision_lr: float | None = declare(
        None,
        "Learning rate of the vision tower. Default: --learning_rate.",
        group="What learns",
        resume="same",
        range=_OWN_RATE,
    )
    resampler_lr: float | None = declare(
        None,
        "Learning rate of the resampler. Default: --learning_rate.",
        group="What learns",
        resume="same",
        range=_OWN_RATE,
    )
    embeddings_lr: float | None = declare(
        None,
        "Learning rate of token embeddings and output head. Default: --learning_rate.",
        group="What learns",
        resume="same",
        range=_OWN_RATE,
    )
    vision_weight_decay: float | None = declare(
        None,
        "Weight decay of the vision tower. Default: --weight_decay.",
        group="What learns",
        resume="same",
        range=NOT_NEGATIVE,
    )
    resampler_weight_decay: float | None = declare(
        None,
        "Weight decay of the resampler. Default: --weight_decay.",
        group="What learns",
        resume="same",
        range=NOT_NEGATIVE,
    )
    embeddings_weight_decay: float | None = declare(
        None,
        "Weight decay of token embeddings and output head. Default: --weight_decay.",
        group="What learns",
        resume="same",
        range=NOT_NEGATIVE,
    )
    use_lora: bool = declare(
        False,
        "Train LoRA matrices, on the language model unless --lora_target_modules names other modules.",
        group="LoRA",
        resume="same",
    )
    q_lora: bool = declare(
        False,
        "Keep the frozen language model quantized to 4 bits (needs bitsandbytes). Implies --use_lora.",
        group="LoRA",
        resume="same",
    )
    lora_r: int = declare(
        64, "Rank of the LoRA matrices.", group="LoRA", resume="same", range=Range(least=1, most=_MOST_RANK)
    )
    lora_alpha: int = declare(
        64, "LoRA scale; the update is multiplied by alpha / r.", group="LoRA", resume="same", range=COUNT_OR_NONE
    )
    lora_dropout: float = declare(
        0.05,
        "Dropout on the input of the LoRA matrices. Unless given: 0 with pissa, olora and --objective dpo, and the "
        "adapter's own with --lora_weight_path.",
        group="LoRA",
        resume="same",
        range=PART,
    )
    lora_lr: float | None = declare(
        None,
        "Learning rate of LoRA matrices in parts without a rate of their own. Default: --learning_rate.",
        group="LoRA",
        resume="same",
        range=_OWN_RATE,
    )
    lora_weight_decay: float | None = declare(
        None,
        "Weight decay of LoRA matrices. Default: --weight_decay.",
        group="LoRA",
        resume="same",
        range=NOT_NEGATIVE,
    )
    lora_target_modules: str = declare(
        DEFAULT_LORA_TARGET,
        "Modules that get LoRA: a regular expression over full names, or words separated by commas. A word is "
        "attention or all-linear (both of the language model), vision-attention, vision-all-linear, resampler, "
        "experts (4.7-A3B), or the last name of modules inside the language model, such as q_proj.",
        group="LoRA",
        resume="same",
    )
    lora_modules_to_save: str | None = declare(
        None,
        "Modules that are fully trained and saved with the LoRA matrices, separated by commas; 'none' for none. The "
        "same choice as the --tune_... switches, by module name. Each costs its own size again, plus gradients and "
        "optimizer state.",
        group="LoRA",
        resume="same",
    )
    lora_preset: Literal["official", "adapters_only"] | None = declare(
        None,
        "What is fully trained in addition to LoRA unless another flag decides. official: vision tower, resampler and "
        "token embeddings, as in the official script. adapters_only: nothing, as in other tools. Default: official.",
        group="LoRA",
        resume="free",  # every part has a value of its own
    )
    lora_weight_path: str | None = declare(
        None,
        "Adapter directory to continue from, instead of new LoRA matrices.",
        group="LoRA",
        resume="free",  # decides the beginning alone
    )
    use_rslora: bool = declare(
        False, "Scale LoRA by alpha / sqrt(r), which keeps high ranks learning (rsLoRA).", group="LoRA", resume="same"
    )
    use_dora: bool = declare(
        False,
        "Learn the magnitude of each weight apart from its direction (DoRA). Slower.",
        group="LoRA",
        resume="same",
    )
    init_lora_weights: str = declare(
        "true",
        "How LoRA matrices are initialised: true (PEFT's default, which adds nothing), gaussian, pissa or "
        "pissa_niter_N (largest singular directions, exact or approximated in N iterations), olora (orthonormal). "
        "The saved adapter is plain LoRA for the unchanged base; after pissa and olora it has twice the rank.",
        group="LoRA",
        resume="same",
    )
    lora_bias: Literal["none", "all", "lora_only"] = declare(
        "none", "Which biases are trained as well.", group="LoRA", resume="same"
    )
    lora_layers_to_transform: list[int] | None = declare(
        None, "Put LoRA on these layers only, counted from 0.", group="LoRA", resume="same"
    )
    lora_layers_pattern: str | None = declare(
        None, "Name of the list of layers that --lora_layers_to_transform counts.", group="LoRA", resume="same"
    )
    llm_activation_checkpointing: bool | None = switch(
        "Recompute the language model's activations in the backward pass instead of storing them: less memory, more "
        "time. Default: as --activation_checkpointing.",
        group="Precision and memory",
        resume="free",
    )
    vision_activation_checkpointing: bool | None = switch(
        "Recompute the vision tower's activations likewise. Default: as --activation_checkpointing.",
        group="Precision and memory",
        resume="free",
    )

    @property
    def changes_base(self) -> bool:
        """Whether LoRA starts from a part of the base's weights, which is subtracted from them while training."""
        return re.fullmatch(_CHANGES_BASE, self.init_lora_weights) is not None

    @property
    def listed_beside_lora(self) -> list[str] | None:
        """The names in ``--lora_modules_to_save``; None if it was not given."""
        if self.lora_modules_to_save is None:
            return None
        names = [name for name in re.split(r"[\s,]+", self.lora_modules_to_save) if name]
        return [] if names == ["none"] else names


@dataclass(frozen=True, kw_only=True)
class RunArguments(LearningArguments):
    """What a run needs in addition to transformers' ``TrainingArguments``."""

    model_name_or_path: str = declare(
        "",
        "Directory or hub name of the MiniCPM-V checkpoint to start from. Required.",
        group="Model",
        resume="content",
    )
    llm_type: str | None = declare(
        None,
        f"Checked against the checkpoint, never needed. One of {', '.join(LLM_TYPES)}.",
        group="Model",
        resume="free",
    )
    objective: Literal["sft", "dpo"] = declare(
        "sft",
        "What is learned. sft: the answers. dpo: to prefer one answer to another (docs/preference.md), by "
        "--preference_loss.",
        group="Preferences",
        resume="same",
    )
    preference_loss: str | None = declare(
        None,
        "Losses of --objective dpo with their weights: sigmoid=0.8,bco_pair=0.2,nll=1. mpo, cpo and orpo alone are the "
        "published mixtures. Default: sigmoid, which is DPO.",
        group="Preferences",
        resume="same",
    )
    beta: float | None = declare(
        None,
        "How strongly the model is held to the reference; the larger, the closer. Default: 0.1, with simpo 2.",
        group="Preferences",
        resume="same",
        range=POSITIVE,
    )
    label_smoothing: float = declare(
        0.0,
        "Share of pairs assumed to be swapped: of sigmoid (conservative), robust and exo_pair.",
        group="Preferences",
        resume="same",
        range=Range(most=0.5, without_most=True),
    )
    simpo_gamma: float = declare(
        1.0, "Margin that simpo asks for.", group="Preferences", resume="same", range=NOT_NEGATIVE
    )
    discopop_tau: float = declare(0.05, "Temperature of discopop.", group="Preferences", resume="same", range=POSITIVE)
    segment_weight: float = declare(
        1.0,
        "How much the tokens count in which two answers differ; all others count 1 (RLHF-V: 5, or 1.1 in its script).",
        group="Preferences",
        resume="same",
        range=POSITIVE,
    )
    normalise_segments: bool = declare(
        False,
        "Divide the weighted log-probability of an answer by the sum of its weights, as RLHF-V's paper does.",
        group="Preferences",
        resume="same",
    )
    precompute_ref_log_probs: bool = declare(
        True,
        "Compute before the first step what the reference, which is the model as it starts, thinks of each answer, and "
        "keep it. false: ask in every step, with the adapter switched off (LoRA).",
        group="Preferences",
        resume="free",
    )
    reference_cache: str = declare(
        "~/.cache/minicpmv/reference",
        "Folder for that, shared by all runs.",
        group="Preferences",
        resume="free",
    )
    cache_dir: str | None = declare(
        None, "Folder for downloaded checkpoints. Default: transformers' own.", group="Model", resume="free"
    )
    data_path: list[str] = list_of(
        "Files (JSON, JSON Lines, Parquet), folders of them or dataset directories to train on. PATH:2 is seen twice "
        "in an epoch, PATH:0.5 by half. Required.",
        group="Data",
        resume="content",
    )
    eval_data_path: list[str] = list_of(
        "Validation data: measured, never trained on; without weights. Each of several files is measured by itself and "
        "logged as eval_NAME_loss: --eval_data_path charts.json receipts=more/val.json. NAME defaults to the file's "
        "name. Default: see --validation_split.",
        group="Data",
        resume="free",
    )
    validation_split: str | None = declare(
        None,
        "Records of --data_path that are held out for validation when there is no --eval_data_path: a share (0.1), a "
        "number (200), or 0 for none. Default: 5 %, from 10 to 500 records, of data with 100 records or more.",
        group="Data",
        resume="content",
    )
    image_root: str | None = declare(
        None,
        "Folder that relative image paths start from. Default: the data file's own.",
        group="Data",
        resume="free",  # images count by their content
    )
    on_bad_record: Literal["error", "skip"] = declare(
        "error",
        "What to do with a record that has a problem, before or during the run. error: stop and name it. skip: "
        "continue without it, and name it in the log and in OUTPUT_DIR/skipped.jsonl.",
        group="Data",
        resume="same",
    )
    max_bad_share: float | None = declare(
        None,
        "With --on_bad_record skip: stop when more than this share of all records is bad. Default: 0.01.",
        group="Data",
        resume="free",
        range=FRACTION,
    )
    check_first: bool = declare(
        True,
        "Check every record, open every image and count all tokens before the first step. false: check records when "
        "they are read, which starts sooner on very many records; without lengths nothing is packed.",
        group="Data",
        resume="free",
    )
    data_cache: str = declare(
        "~/.cache/minicpmv",
        "Folder for the results of checking sound data, so that the next start on the same data takes seconds. false: "
        "keep nothing, and check everything again.",
        group="Data",
        resume="free",
    )
    model_max_length: int = declare(
        2048,
        "Tokens of the longest record, image tokens included.",
        group="Batches and length",
        resume="same",
        range=COUNT,
    )
    on_long_record: Literal["fewer_slices", "error", "skip"] = declare(
        "fewer_slices",
        "What to do with a longer record. fewer_slices: cut its images into as many slices as fit, and stop if one "
        "slice for each is too long. skip: the same, but leave such a record out and name it in "
        "OUTPUT_DIR/skipped.jsonl. error: stop.",
        group="Batches and length",
        resume="same",
    )
    truncate_answers: bool = declare(
        False,
        "Cut the end of the last answer from a record that does not fit otherwise. Images and other turns stay whole.",
        group="Batches and length",
        resume="same",
    )
    downsample_mode: str | None = declare(
        None,
        "How far pictures are shrunk (4.6 and later): 16x, or 4x for four times the image tokens. What is saved states "
        "it. Default: what the checkpoint states.",
        group="Batches and length",
        resume="same",
    )
    max_slice_nums: int | None = declare(
        None,
        "Most tiles cut from one image. Default: what the checkpoint states.",
        group="Batches and length",
        resume="same",
        range=COUNT,
    )
    video_fps: float | None = declare(
        None,
        "Frames a second that are taken of a film. What is saved states it, and the next two. Default: as the release "
        "is officially fed (1; 4.5: 3).",
        group="Batches and length",
        resume="same",
        range=Range(most=240, without_least=True),
    )
    max_frames: int | None = declare(
        None,
        "Most frames of one film. Default: as the release is officially fed (2.6, 4.0, o: 64; 4.5: 540; 4.6, 4.7: "
        "128).",
        group="Batches and length",
        resume="same",
        range=Range(least=1, most=2048),
    )
    video_max_slice_nums: int | None = declare(
        None,
        "Most tiles cut from one frame of a film. Default: 1; official examples of 2.6 also use 2.",
        group="Batches and length",
        resume="same",
        range=COUNT,
    )
    packing: bool | None = switch(
        "Train on packed rows: records end to end, up to --pack_length tokens, without attending to each other. "
        "--per_device_train_batch_size counts such rows; several of them form one longer row. Default: true, unless a "
        "flag asks for what only padded batches can do (--train_sampling_strategy group_by_length, "
        "--dataloader_drop_last true).",
        group="Batches and length",
        resume="same",
    )
    pack_length: int | None = declare(
        None,
        "Tokens of a packed row. Default: --model_max_length.",
        group="Batches and length",
        resume="same",
        range=COUNT,
    )
    pack_patches: int | None = declare(
        None,
        "Most patches that the vision tower sees in a packed row, or those of the record that has most. Default: for "
        "releases whose frames share blocks of tokens (4.5) as many as a row of pictures alone would have; for others "
        "no bound beside --pack_length, which implies one.",
        group="Batches and length",
        resume="same",
        range=COUNT,
    )
    vision_cache: str | None = declare(
        None,
        "Folder for the features of a frozen vision tower, so that it sees each image once, in all epochs and in all "
        "runs that share the folder. true: ~/.cache/minicpmv/vision. Needs --tune_vision false.",
        group="Precision and memory",
        resume="free",
        bare="true",
    )
    vision_cache_gb: float = declare(
        50.0,
        "Largest size of that folder, in gigabytes. Least recently used features are removed first; what this run uses "
        "stays, and when nothing else is left, no more is stored.",
        group="Precision and memory",
        resume="free",
        range=POSITIVE,
    )
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
        0,
        "Validation records, spread over all, that the model answers before the first step and after the last. The "
        "scores are printed at the end, and both answers are in the report. 0: none. The scripts set 32.",
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

    @property
    def train_sources(self) -> list[DataSource]:
        """The sources in ``data_path``.

        Raises:
            UsageError: A weight is not positive.
        """
        return [parse_source(written, flag="--data_path") for written in self.data_path]

    @property
    def eval_sources(self) -> dict[str, list[DataSource]]:
        """The sources in ``eval_data_path``, by the name of their set, which is empty if there is only one.

        Raises:
            UsageError: A source has a weight, or two sets have the same name.
        """
        return parse_validation_sets(self.eval_data_path, flag="--eval_data_path")

    @property
    def split(self) -> SplitSize | None:
        """How much of ``data_path`` is held out; None: nothing.

        Raises:
            UsageError: ``validation_split`` is not a size.
        """
        if self.eval_data_path or (self.validation_split is None and not self.check_first):
            return None
        return parse_split(self.validation_split)

    @property
    def mixture(self) -> Mixture | None:
        """The losses of preferences; None where answers are learned as they are.

        Raises:
            UsageError: ``preference_loss`` cannot be read.
        """
        if self.objective == "sft":
            return None
        return parse_mixture(self.preference_loss or "sigmoid", flag="--preference_loss")

    @property
    def kind(self) -> Kind:
        """What the run makes of a record."""
        mixture = self.mixture
        return "conversation" if mixture is None else "answer" if mixture.is_unpaired else "pair"

    @property
    def stores_reference(self) -> bool:
        """Whether answers are scored by the reference before the first step."""
        return self.mixture is not None and self.mixture.needs_reference and self.precompute_ref_log_probs

    @property
    def may_evaluate(self) -> bool:
        """Whether there may be validation records; how many are held out is known when the data are read."""
        return bool(self.eval_data_path) or self.split is not None
