"""Describes the batch at which a run ran out of memory, and the flags that reduce memory."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from transformers import TrainingArguments

from minicpmv.training.flags.declarations import RunArguments
from minicpmv.wording import counted

__all__ = ["describe_batch", "ways_to_need_less"]


def describe_batch(batch: Mapping[str, Any]) -> str:
    """Describe the size of a collated batch.

    >>> from minicpmv.models.networks.layout import Layout
    >>> describe_batch({"layout": Layout(tokens_of_each=(1200, 700), sizes=((32, 32),) * 12)})
    'a batch of 2 records, 1,900 tokens and 12 image slices'
    """
    layout = batch["layout"]
    lengths = layout.tokens_of_each
    of_each = counted(len(lengths), "record"), counted(sum(lengths), "token"), counted(len(layout.sizes), "image slice")
    return "a batch of {}, {} and {}".format(*of_each)


def ways_to_need_less(run: RunArguments, args: TrainingArguments) -> str:
    """List the unused flags that reduce a step's memory, those that do not change the result first."""
    ways = []
    if not (run.llm_activation_checkpointing is True and run.vision_activation_checkpointing is True):
        ways.append("--activation_checkpointing true")
    if args.per_device_train_batch_size > 1:
        ways.append("a lower --per_device_train_batch_size with more --gradient_accumulation_steps")
    if run.packing and (run.pack_length or run.model_max_length) > run.model_max_length:
        ways.append("a lower --pack_length")
    if not (run.use_lora or run.release_gradients or args.world_size > 1 or args.deepspeed or args.fsdp or args.fp16):
        ways.append("--release_gradients true, which neither accumulates nor clips")
    if not (args.deepspeed or args.fsdp or args.use_cpu):
        ways.append("--deepspeed zero3" if args.world_size > 1 else "--deepspeed zero2-offload")
    ways.append("a lower --model_max_length or --max_slice_nums")
    if not run.use_lora:
        ways.append("--use_lora true")
    elif run.tune_vision or run.tune_resampler or run.tune_embeddings:
        ways.append("--lora_preset adapters_only")
    elif not run.q_lora:
        ways.append("--q_lora true")
    told = f"{', or '.join(ways)}; `minicpmv estimate` with the same flags says what a run needs"
    if args.device.type != "cuda":
        return told
    release = tuple(int(number) for number in torch.__version__.split(".")[:2])
    variable = "PYTORCH_ALLOC_CONF" if release >= (2, 9) else "PYTORCH_CUDA_ALLOC_CONF"
    if "expandable_segments" in os.environ.get(variable, ""):
        return told
    return f"{told}. If little is missing, {variable}=expandable_segments:True in the environment may be enough"
