"""States the settings that ``minicpmv.train`` takes, for editors and type checkers.

It is made by ``scripts/python_settings.py``. Our own settings are explained here, those of transformers in its
``TrainingArguments``; ``minicpmv train --help`` explains all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

__all__ = ["Settings"]


class Settings(TypedDict, total=False):
    """Flags of ``minicpmv train``. One that is left out, or None, has its default."""

    # Model
    llm_type: str
    """Checked against the checkpoint, never needed. One of minicpm, llama3, qwen, qwen2, llama, qwen3, qwen3_5,
    qwen3_5_moe."""
    cache_dir: str
    """Folder for downloaded checkpoints. Default: transformers' own."""

    # Data
    validation_split: str
    """Records of --data_path that are held out for validation when there is no --eval_data_path: a share (0.1), a
    number (200), or 0 for none. Default: 5 %, from 10 to 500 records, of data with 100 records or more."""
    image_root: str
    """Folder that relative image paths start from. Default: the data file's own."""
    on_bad_record: Literal["error", "skip"]
    """What to do with a record that has a problem, before or during the run. error: stop and name it. skip: continue
    without it, and name it in the log and in OUTPUT_DIR/skipped.jsonl. Default: error."""
    max_bad_share: float
    """With --on_bad_record skip: stop when more than this share of all records is bad. Default: 0.01."""
    check_first: bool
    """Check every record, open every image and count all tokens before the first step. false: check records when they
    are read, which starts sooner on very many records; without lengths nothing is packed. Default: True."""
    data_cache: str
    """Folder for the results of checking sound data, so that the next start on the same data takes seconds. false: keep
    nothing, and check everything again. Default: ~/.cache/minicpmv."""

    # What learns
    tune_llm: bool
    """Train the whole language model. Default: true; false with LoRA. Embeddings and head have flags of their own."""
    tune_vision: bool
    """Train the whole vision tower. Default: true, unless it gets LoRA."""
    tune_resampler: bool
    """Train the whole resampler. Default: true, unless it gets LoRA."""
    tune_embeddings: bool
    """Train the token embeddings. Default: as --tune_llm; with LoRA true, as in the official recipe, unless the output
    head has the same weights."""
    tune_output_head: bool
    """Train the projection onto the vocabulary. Default: as --tune_llm; with LoRA false."""
    vision_lr: float
    """Learning rate of the vision tower. Default: --learning_rate."""
    resampler_lr: float
    """Learning rate of the resampler. Default: --learning_rate."""
    embeddings_lr: float
    """Learning rate of token embeddings and output head. Default: --learning_rate."""
    vision_weight_decay: float
    """Weight decay of the vision tower. Default: --weight_decay."""
    resampler_weight_decay: float
    """Weight decay of the resampler. Default: --weight_decay."""
    embeddings_weight_decay: float
    """Weight decay of token embeddings and output head. Default: --weight_decay."""

    # Preferences
    objective: Literal["sft", "dpo"]
    """What is learned. sft: the answers. dpo: to prefer one answer to another (docs/preference.md), by
    --preference_loss. Default: sft."""
    preference_loss: str
    """Losses of --objective dpo with their weights: sigmoid=0.8,bco_pair=0.2,nll=1. mpo, cpo and orpo alone are the
    published mixtures. Default: sigmoid, which is DPO."""
    beta: float
    """How strongly the model is held to the reference; the larger, the closer. Default: 0.1, with simpo 2."""
    label_smoothing: float
    """Share of pairs assumed to be swapped: of sigmoid (conservative), robust and exo_pair. Default: 0.0."""
    simpo_gamma: float
    """Margin that simpo asks for. Default: 1.0."""
    discopop_tau: float
    """Temperature of discopop. Default: 0.05."""
    segment_weight: float
    """How much the tokens count in which two answers differ; all others count 1 (RLHF-V: 5, or 1.1 in its script).
    Default: 1.0."""
    normalise_segments: bool
    """Divide the weighted log-probability of an answer by the sum of its weights, as RLHF-V's paper does. Default:
    False."""
    precompute_ref_log_probs: bool
    """Compute before the first step what the reference, which is the model as it starts, thinks of each answer, and
    keep it. false: ask in every step, with the adapter switched off (LoRA). Default: True."""
    reference_cache: str
    """Folder for that, shared by all runs. Default: ~/.cache/minicpmv/reference."""

    # LoRA
    use_lora: bool
    """Train LoRA matrices, on the language model unless --lora_target_modules names other modules. Default: False."""
    q_lora: bool
    """Keep the frozen language model quantized to 4 bits (needs bitsandbytes). Implies --use_lora. Default: False."""
    lora_r: int
    """Rank of the LoRA matrices. Default: 64."""
    lora_alpha: int
    """LoRA scale; the update is multiplied by alpha / r. Default: 64."""
    lora_dropout: float
    """Dropout on the input of the LoRA matrices. Unless given: 0 with pissa, olora and --objective dpo, and the
    adapter's own with --lora_weight_path. Default: 0.05."""
    lora_lr: float
    """Learning rate of LoRA matrices in parts without a rate of their own. Default: --learning_rate."""
    lora_weight_decay: float
    """Weight decay of LoRA matrices. Default: --weight_decay."""
    lora_target_modules: str
    r"""Modules that get LoRA: a regular expression over full names, or words separated by commas. A word is attention
    or all-linear (both of the language model), vision-attention, vision-all-linear, resampler, experts (4.7-A3B), or
    the last name of modules inside the language model, such as q_proj. Default:
    llm\..*layers\.\d+\.self_attn\.(q_proj|k_proj|v_proj|o_proj)."""
    lora_modules_to_save: str
    """Modules that are fully trained and saved with the LoRA matrices, separated by commas; 'none' for none. The same
    choice as the --tune_... switches, by module name. Each costs its own size again, plus gradients and optimizer
    state."""
    lora_preset: Literal["official", "adapters_only"]
    """What is fully trained in addition to LoRA unless another flag decides. official: vision tower, resampler and
    token embeddings, as in the official script. adapters_only: nothing, as in other tools. Default: official;
    adapters_only with --objective dpo."""
    lora_weight_path: str
    """Adapter directory to continue from, instead of new LoRA matrices."""
    use_rslora: bool
    """Scale LoRA by alpha / sqrt(r), which keeps high ranks learning (rsLoRA). Default: False."""
    use_dora: bool
    """Learn the magnitude of each weight apart from its direction (DoRA). Slower. Default: False."""
    init_lora_weights: str
    """How LoRA matrices are initialised: true (PEFT's default, which adds nothing), gaussian, pissa or pissa_niter_N
    (largest singular directions, exact or approximated in N iterations), olora (orthonormal). The saved adapter is
    plain LoRA for the unchanged base; after pissa and olora it has twice the rank. Default: true."""
    lora_bias: Literal["none", "all", "lora_only"]
    """Which biases are trained as well. Default: none."""
    lora_layers_to_transform: Sequence[int]
    """Put LoRA on these layers only, counted from 0."""
    lora_layers_pattern: str
    """Name of the list of layers that --lora_layers_to_transform counts."""

    # Batches and length
    model_max_length: int
    """Tokens of the longest record, image tokens included. Default: 2048."""
    on_long_record: Literal["fewer_slices", "error", "skip"]
    """What to do with a longer record. fewer_slices: cut its images into as many slices as fit, and stop if one slice
    for each is too long. skip: the same, but leave such a record out and name it in OUTPUT_DIR/skipped.jsonl. error:
    stop. Default: fewer_slices."""
    truncate_answers: bool
    """Cut the end of the last answer from a record that does not fit otherwise. Images and other turns stay whole.
    Default: False."""
    downsample_mode: str
    """How far pictures are shrunk (4.6 and later): 16x, or 4x for four times the image tokens. What is saved states it.
    Default: what the checkpoint states."""
    max_slice_nums: int
    """Most tiles cut from one image. Default: what the checkpoint states."""
    video_fps: float
    """Frames a second that are taken of a film. What is saved states it, and the next two. Default: as the release is
    officially fed (1; 4.5: 3)."""
    max_frames: int
    """Most frames of one film. Default: as the release is officially fed (2.6, 4.0, o: 64; 4.5: 540; 4.6, 4.7: 128)."""
    video_max_slice_nums: int
    """Most tiles cut from one frame of a film. Default: 1; official examples of 2.6 also use 2."""
    packing: bool
    """Train on packed rows: records end to end, up to --pack_length tokens, without attending to each other.
    --per_device_train_batch_size counts such rows; several of them form one longer row. Default: true, unless a flag
    asks for what only padded batches can do (--train_sampling_strategy group_by_length, --dataloader_drop_last
    true)."""
    pack_length: int
    """Tokens of a packed row. Default: --model_max_length."""
    pack_patches: int
    """Most patches that the vision tower sees in a packed row, or those of the record that has most. Default: for
    releases whose frames share blocks of tokens (4.5) as many as a row of pictures alone would have; for others no
    bound beside --pack_length, which implies one."""
    per_device_train_batch_size: int
    """As ``TrainingArguments.per_device_train_batch_size`` of transformers. Default: 1."""
    gradient_accumulation_steps: int
    """As ``TrainingArguments.gradient_accumulation_steps`` of transformers. Default: 2; with --objective dpo 4."""
    seed: int
    """As ``TrainingArguments.seed`` of transformers. Default: 42."""
    data_seed: int
    """As ``TrainingArguments.data_seed`` of transformers."""
    dataloader_drop_last: bool
    """As ``TrainingArguments.dataloader_drop_last`` of transformers. Default: False."""
    train_sampling_strategy: Literal["random", "sequential", "group_by_length", "batch_rebalance"]
    """As ``TrainingArguments.train_sampling_strategy`` of transformers. Default: random."""

    # Precision and memory
    llm_activation_checkpointing: bool | Literal["auto"]
    """Recompute the language model's activations in the backward pass instead of storing them: less memory, more time.
    auto: in as few layers as the free memory allows. Default: as --activation_checkpointing."""
    vision_activation_checkpointing: bool | Literal["auto"]
    """Recompute the vision tower's activations likewise. Default: as --activation_checkpointing."""
    release_gradients: bool
    """Update each weight inside the backward pass, as soon as its gradient is complete, and free the gradient: 4 bytes
    less for each weight that learns, and the same weights to the last bit. Nothing can be clipped or accumulated then,
    and it takes one process without DeepSpeed. Default: False."""
    vision_cache: bool | str
    """Folder for the features of a frozen vision tower, so that it sees each image once, in all epochs and in all runs
    that share the folder. true: ~/.cache/minicpmv/vision. Needs --tune_vision false."""
    vision_cache_gb: float
    """Largest size of that folder, in gigabytes. Least recently used features are removed first; what this run uses
    stays, and when nothing else is left, no more is stored. Default: 50.0."""
    bf16: bool
    """As ``TrainingArguments.bf16`` of transformers. Default: true on a GPU that has it."""
    fp16: bool
    """As ``TrainingArguments.fp16`` of transformers. Default: true on a GPU without bfloat16."""
    bf16_full_eval: bool
    """As ``TrainingArguments.bf16_full_eval`` of transformers. Default: False."""
    fp16_full_eval: bool
    """As ``TrainingArguments.fp16_full_eval`` of transformers. Default: False."""
    tf32: bool
    """As ``TrainingArguments.tf32`` of transformers."""
    activation_checkpointing: bool | bool | Literal["auto"]
    """As ``TrainingArguments.activation_checkpointing`` of transformers. Default: true."""
    activation_checkpointing_kwargs: str | Mapping[str, Any]
    """As ``TrainingArguments.activation_checkpointing_kwargs`` of transformers."""
    gradient_checkpointing: bool | bool | Literal["auto"]
    """As ``TrainingArguments.gradient_checkpointing`` of transformers."""
    gradient_checkpointing_kwargs: str | Mapping[str, Any]
    """As ``TrainingArguments.gradient_checkpointing_kwargs`` of transformers."""
    torch_compile: bool
    """As ``TrainingArguments.torch_compile`` of transformers. Default: False."""
    torch_compile_backend: str
    """As ``TrainingArguments.torch_compile_backend`` of transformers."""
    torch_compile_mode: str
    """As ``TrainingArguments.torch_compile_mode`` of transformers."""
    torch_empty_cache_steps: int
    """As ``TrainingArguments.torch_empty_cache_steps`` of transformers."""
    full_determinism: bool
    """As ``TrainingArguments.full_determinism`` of transformers. Default: False."""

    # Schedule and optimizer
    num_train_epochs: float
    """As ``TrainingArguments.num_train_epochs`` of transformers. Default: 3; with --objective dpo 1."""
    max_steps: int
    """As ``TrainingArguments.max_steps`` of transformers. Default: -1."""
    learning_rate: float
    """As ``TrainingArguments.learning_rate`` of transformers. Default: 1e-5, with LoRA 1e-4; with --objective dpo 5e-7,
    with LoRA 1e-5."""
    lr_scheduler_type: Literal[
        "linear",
        "cosine",
        "cosine_with_restarts",
        "polynomial",
        "constant",
        "constant_with_warmup",
        "inverse_sqrt",
        "reduce_lr_on_plateau",
        "cosine_with_min_lr",
        "cosine_warmup_with_min_lr",
        "warmup_stable_decay",
        "greedy",
    ]
    """As ``TrainingArguments.lr_scheduler_type`` of transformers. Default: cosine."""
    lr_scheduler_kwargs: str | Mapping[str, Any]
    """As ``TrainingArguments.lr_scheduler_kwargs`` of transformers."""
    warmup_steps: float
    """As ``TrainingArguments.warmup_steps`` of transformers. Default: 0.01; with --objective dpo 0.05."""
    optim: Literal[
        "adamw_torch",
        "adamw_torch_fused",
        "adamw_torch_npu_fused",
        "adafactor",
        "adamw_torch_4bit",
        "adamw_torch_8bit",
        "ademamix",
        "sgd",
        "adagrad",
        "adamw_bnb_8bit",
        "adamw_8bit",
        "ademamix_8bit",
        "lion_8bit",
        "lion_32bit",
        "paged_adamw_32bit",
        "paged_adamw_8bit",
        "paged_ademamix_32bit",
        "paged_ademamix_8bit",
        "paged_lion_32bit",
        "paged_lion_8bit",
        "rmsprop",
        "rmsprop_bnb",
        "rmsprop_bnb_8bit",
        "rmsprop_bnb_32bit",
        "galore_adamw",
        "galore_adamw_8bit",
        "galore_adafactor",
        "grokadamw",
        "apollo_adamw",
        "stable_adamw",
    ]
    """As ``TrainingArguments.optim`` of transformers. Default: adamw_torch_fused."""
    optim_args: str
    """As ``TrainingArguments.optim_args`` of transformers."""
    weight_decay: float
    """As ``TrainingArguments.weight_decay`` of transformers. Default: 0.1; with --objective dpo 0.01."""
    adam_beta1: float
    """As ``TrainingArguments.adam_beta1`` of transformers. Default: 0.9."""
    adam_beta2: float
    """As ``TrainingArguments.adam_beta2`` of transformers. Default: 0.95."""
    adam_epsilon: float
    """As ``TrainingArguments.adam_epsilon`` of transformers. Default: 1e-08."""
    optim_target_modules: str
    """As ``TrainingArguments.optim_target_modules`` of transformers."""
    average_tokens_across_devices: bool
    """As ``TrainingArguments.average_tokens_across_devices`` of transformers. Default: True."""
    max_grad_norm: float
    """As ``TrainingArguments.max_grad_norm`` of transformers. Default: 1.0."""
    label_smoothing_factor: float
    """As ``TrainingArguments.label_smoothing_factor`` of transformers. Default: 0.0."""
    neftune_noise_alpha: float
    """As ``TrainingArguments.neftune_noise_alpha`` of transformers."""

    # Evaluation
    eval_samples: int
    """Records of each validation set whose first question the model answers before the first step and at each
    evaluation: the first ones, greedily, into OUTPUT_DIR/samples.jsonl. 0: none. Default: 2."""
    eval_sample_tokens: int
    """Tokens of the longest such answer. Default: 64."""
    eval_metrics: str
    """Metrics of the model's answers to the validation sets, measured at each evaluation and logged as eval_METRIC, or
    as eval_NAME_METRIC with several sets: --eval_metrics anls,exact_match (`minicpmv eval --metrics list` lists all).
    --keep_best true --metric_for_best_model eval_anls keeps the best checkpoint by one of them."""
    eval_metrics_records: int
    """Records answered for them, the first ones. Default: all."""
    eval_max_new_tokens: int
    """Tokens of the longest answer that is measured. Default: 64."""
    answer_batch_size: int
    """Records that a process answers at once, for --eval_metrics, --measure and samples; halved when they do not fit in
    the device's memory. --per_device_eval_batch_size applies to the loss alone. Default: 16."""
    keep_best: bool
    """Save at each evaluation, and end with the best of these checkpoints instead of the last: by the loss, or by
    --metric_for_best_model. The same as --load_best_model_at_end. Default: False."""
    early_stopping: int
    """End training after this many evaluations in a row without improvement; implies --keep_best. 0: never. Default:
    0."""
    measure: int
    """Validation records, spread over all, that the model answers before the first step and after the last. The scores
    are printed at the end, and both answers are in the report. 0: none. Default: 32."""
    eval_strategy: Literal["no", "steps", "epoch"]
    """As ``TrainingArguments.eval_strategy`` of transformers. Default: steps."""
    eval_steps: float
    """As ``TrainingArguments.eval_steps`` of transformers. Default: those of an epoch, or fewer in a long epoch."""
    eval_delay: float
    """As ``TrainingArguments.eval_delay`` of transformers. Default: 0."""
    per_device_eval_batch_size: int
    """As ``TrainingArguments.per_device_eval_batch_size`` of transformers. Default: 1."""
    eval_on_start: bool
    """As ``TrainingArguments.eval_on_start`` of transformers. Default: False."""
    load_best_model_at_end: bool
    """As ``TrainingArguments.load_best_model_at_end`` of transformers. Default: False."""
    metric_for_best_model: str
    """As ``TrainingArguments.metric_for_best_model`` of transformers. Default: loss."""
    greater_is_better: bool
    """As ``TrainingArguments.greater_is_better`` of transformers."""
    do_eval: bool
    """As ``TrainingArguments.do_eval`` of transformers. Default: False."""

    # Saving and resuming
    save_dtype: Literal["auto", "float32", "bfloat16", "float16"]
    """Precision of the full checkpoint that is saved at the end. auto: that of the checkpoint it started from. Default:
    auto."""
    save_rounding: Literal["nearest", "stochastic"]
    """How a full model that was trained in float32 is rounded to that precision. nearest: updates smaller than half the
    distance between two numbers vanish. stochastic: each value goes to one of its two neighbours, the nearer one with
    higher probability, which keeps every update on average; it depends on --seed. Default: nearest."""
    verify_saved: bool
    """At the end, load what was saved in a fresh process, compare every tensor and the loss on a few records with the
    trained model, and write the result to OUTPUT_DIR/verification.json; a difference makes the run fail. Default:
    True."""
    overwrite_output_dir: bool
    """Start again in a directory with checkpoints of an earlier run: delete them. Default: False."""
    allow_other_base: bool
    """Continue a checkpoint, or the adapter of --lora_weight_path, with another base model of the same shape than the
    one it was trained on. run.json records it. Default: False."""
    allow_changed_images: bool
    """Continue a checkpoint although images have changed since the run that wrote it read them. run.json records it.
    Default: False."""
    save_only_model: bool
    """As ``TrainingArguments.save_only_model`` of transformers. Default: False."""
    save_strategy: Literal["no", "steps", "epoch", "best"]
    """As ``TrainingArguments.save_strategy`` of transformers. Default: steps."""
    save_steps: float
    """As ``TrainingArguments.save_steps`` of transformers. Default: 1000."""
    save_on_each_node: bool
    """As ``TrainingArguments.save_on_each_node`` of transformers. Default: False."""
    save_total_limit: int
    """As ``TrainingArguments.save_total_limit`` of transformers. Default: 10."""
    push_to_hub: bool
    """Upload the model to --hub_model_id when it is saved and verified, as `minicpmv push` does, with a token of
    HF_TOKEN or MODELSCOPE_API_TOKEN, or of a login. An upload that fails leaves the run as it is. Default: False."""
    hub_private_repo: bool
    """Whether a repository that --push_to_hub makes is private. Default: true."""
    hub_model_id: str
    """Repository for --push_to_hub: owner/name, or modelscope:owner/name. It is made if there is none."""
    ignore_data_skip: bool
    """As ``TrainingArguments.ignore_data_skip`` of transformers. Default: False."""
    restore_callback_states_from_checkpoint: bool
    """As ``TrainingArguments.restore_callback_states_from_checkpoint`` of transformers. Default: true, always."""
    resume_from_checkpoint: str
    """As ``TrainingArguments.resume_from_checkpoint`` of transformers."""

    # Machine and processes
    num_processes: int
    """Processes on this machine, each on a GPU of its own. Default: one for each GPU (CUDA_VISIBLE_DEVICES hides some),
    one on a CPU. A launcher such as torchrun decides it instead."""
    dry_run: bool
    """Check everything that can be checked first: flags, data, weights, one optimizer step on the costliest row,
    memory, disk and time; then end. Nothing is written. Default: False."""
    use_cpu: bool
    """As ``TrainingArguments.use_cpu`` of transformers. Default: true without a GPU."""
    accelerator_config: str | Mapping[str, Any]
    """As ``TrainingArguments.accelerator_config`` of transformers."""
    dataloader_num_workers: int
    """As ``TrainingArguments.dataloader_num_workers`` of transformers. Default: by the machine's cores; 0 on a CPU."""
    dataloader_pin_memory: bool
    """As ``TrainingArguments.dataloader_pin_memory`` of transformers. Default: True."""
    dataloader_persistent_workers: bool
    """As ``TrainingArguments.dataloader_persistent_workers`` of transformers. Default: False."""
    dataloader_prefetch_factor: int
    """As ``TrainingArguments.dataloader_prefetch_factor`` of transformers."""
    dataloader_multiprocessing_context: Literal["fork", "spawn", "forkserver"]
    """As ``TrainingArguments.dataloader_multiprocessing_context`` of transformers."""
    dataloader_in_order: bool
    """As ``TrainingArguments.dataloader_in_order`` of transformers. Default: True."""
    ddp_find_unused_parameters: bool
    """As ``TrainingArguments.ddp_find_unused_parameters`` of transformers. Default: False."""
    ddp_bucket_cap_mb: int
    """As ``TrainingArguments.ddp_bucket_cap_mb`` of transformers."""
    ddp_broadcast_buffers: bool
    """As ``TrainingArguments.ddp_broadcast_buffers`` of transformers."""
    ddp_static_graph: bool
    """As ``TrainingArguments.ddp_static_graph`` of transformers."""
    ddp_backend: Literal["nccl", "gloo", "mpi", "xccl", "hccl", "cncl", "mccl"]
    """As ``TrainingArguments.ddp_backend`` of transformers."""
    ddp_timeout: int
    """As ``TrainingArguments.ddp_timeout`` of transformers. Default: 1800."""
    fsdp: bool | str
    """As ``TrainingArguments.fsdp`` of transformers."""
    fsdp_config: str | Mapping[str, Any]
    """As ``TrainingArguments.fsdp_config`` of transformers."""
    deepspeed: str | Mapping[str, Any]
    """As ``TrainingArguments.deepspeed`` of transformers."""

    # Logging
    report: bool
    """At the end, write OUTPUT_DIR/report.html, a page with curves, answers, data and settings, and
    OUTPUT_DIR/loss.png, the curve of the loss. `minicpmv report OUTPUT_DIR` does so at any time. Default: True."""
    logging_dir: str
    """Folder for TensorBoard files. Default: OUTPUT_DIR/runs."""
    logging_strategy: Literal["no", "steps", "epoch"]
    """As ``TrainingArguments.logging_strategy`` of transformers. Default: steps."""
    logging_steps: float
    """As ``TrainingArguments.logging_steps`` of transformers. Default: 10, or fewer in a short run."""
    logging_first_step: bool
    """As ``TrainingArguments.logging_first_step`` of transformers. Default: False."""
    log_on_each_node: bool
    """As ``TrainingArguments.log_on_each_node`` of transformers. Default: True."""
    logging_nan_inf_filter: bool
    """As ``TrainingArguments.logging_nan_inf_filter`` of transformers. Default: False."""
    include_num_input_tokens_seen: bool | str
    """As ``TrainingArguments.include_num_input_tokens_seen`` of transformers. Default: no."""
    log_level: Literal["detail", "debug", "info", "warning", "error", "critical", "passive"]
    """As ``TrainingArguments.log_level`` of transformers. Default: passive."""
    log_level_replica: Literal["detail", "debug", "info", "warning", "error", "critical", "passive"]
    """As ``TrainingArguments.log_level_replica`` of transformers. Default: warning."""
    disable_tqdm: bool
    """As ``TrainingArguments.disable_tqdm`` of transformers. Default: true unless on a terminal."""
    report_to: str
    """As ``TrainingArguments.report_to`` of transformers. Default: tensorboard."""
    run_name: str
    """As ``TrainingArguments.run_name`` of transformers."""
    project: str
    """As ``TrainingArguments.project`` of transformers. Default: huggingface."""
    trackio_space_id: str
    """As ``TrainingArguments.trackio_space_id`` of transformers."""
    trackio_bucket_id: str
    """As ``TrainingArguments.trackio_bucket_id`` of transformers."""
    trackio_static_space_id: str
    """As ``TrainingArguments.trackio_static_space_id`` of transformers."""
    skip_memory_metrics: bool
    """As ``TrainingArguments.skip_memory_metrics`` of transformers. Default: True."""
