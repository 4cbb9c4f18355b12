"""FSDP2, torch's own sharding: reads what ``--fsdp`` asks for, sets it up for these models, makes sure that it acts.

The sharding itself is torch's ``fully_shard``, called by accelerate. FSDP1, which wraps a model instead of changing its
parameters, is not supported.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy
from torch.distributed.tensor import DTensor
from transformers import TrainingArguments

from minicpmv.errors import ConfigError, UsageError

__all__ = [
    "check_sharded",
    "choose_units",
    "gather_idle",
    "hold_head",
    "load_whole",
    "prepare_fsdp",
    "reshard",
    "start_fsdp",
    "whole",
]


def prepare_fsdp() -> None:
    """Say what accelerate wants to know before the processes join; without it they could not gather on the CPU."""
    os.environ |= {"ACCELERATE_USE_FSDP": "true", "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT"}


def start_fsdp(args: TrainingArguments) -> None:
    """Let processes on a CPU shard as on GPUs, and compute in the run's precision without rounding the loss to it."""
    if args.use_cpu:
        # Private: accelerate offers FSDP to every kind of device but the CPU, where it falls back to DDP in silence;
        # torch's gloo does all that is needed. It looks at nothing else of the kind named here. It may go when
        # accelerate's state takes FSDP on MULTI_CPU.
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_NPU
    half = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None
    if half is not None:
        # accelerate's own choice casts the output as well, so the loss, and adds gradients up in half precision.
        _plugin_settings(args)["mixed_precision_policy"] = MixedPrecisionPolicy(half, torch.float32)


def choose_units(args: TrainingArguments, model: nn.Module) -> None:
    """Say which modules are gathered one at a time: what the model never splits, where it has it.

    The rest belongs to the whole model, whose forward gathers it. A module that only names others and has no forward of
    its own is never called, so nothing would gather it.

    Raises:
        UsageError: The model's weights are packed in fewer bits.
    """
    if getattr(model, "is_quantized", False):
        raise UsageError(
            "--fsdp true: found weights packed in fewer bits, expected whole ones: it cannot shard them\n"
            "  fix: use --deepspeed zero2"
        )
    named: Any = model  # PEFT passes the question on
    classes = {type(module) for module in model.modules() if type(module).__name__ in named._no_split_modules}
    called = sorted(each.__name__ for each in classes if each.forward is not nn.Module.forward)
    _plugin_settings(args)["transformer_cls_names_to_wrap"] = ",".join(called)


def _plugin_settings(args: TrainingArguments) -> dict[str, Any]:
    """What Trainer will make accelerate's plugin of; some of it has no flag."""
    settings: Any = args.fsdp_plugin_args
    assert settings is not None, "transformers makes it of --fsdp"
    return settings


def check_sharded(model: nn.Module, args: TrainingArguments) -> None:
    """Make sure before the first step that FSDP was not left out on the way.

    Raises:
        ConfigError: It was.
    """
    devices = {parameter.device_mesh.device_type for parameter in model.parameters() if isinstance(parameter, DTensor)}
    if not isinstance(model, FSDPModule) or devices != {args.device.type}:
        where = f"sharded on {', '.join(sorted(devices))}" if devices else "not sharded"
        raise ConfigError(
            f"--fsdp true: found a model of class {type(model).__name__} {where}, expected one sharded on "
            f"{args.device.type} by torch's fully_shard; this accelerate does something else\n"
            "  fix: install the versions of requirements/base.txt, or use --deepspeed zero3"
        )


def gather_idle(model: nn.Module) -> None:
    """Gather once what is never called: the originals that PEFT keeps beside the modules it trains fully.

    torch 2.13 ends a backward pass by asking every module for the tensor that its first gathering makes, if gradients
    are added up in another precision than that of computing. It may go when torch skips modules that were not used.
    Every process must call it.
    """
    for name, module in model.named_modules():
        if ".original_module" in name and isinstance(module, FSDPModule):
            module.unshard()
            module.reshard()


def hold_head(model: nn.Module) -> FSDPModule:
    """Let the output head stay whole from its first use in a step on, instead of being gathered for each chunk.

    The loss calls it chunk by chunk, and torch would give it up after each chunk's backward pass: ten gatherings of a
    gigabyte for a vocabulary of 150,000.

    Returns:
        What holds it. It must be resharded after each backward pass, since the optimizer trains the shards.
    """
    named: Any = model  # PEFT passes the question on
    head = named.get_output_embeddings()
    assert isinstance(head, FSDPModule), "accelerate shards the head by itself, or with what it shares weights with"
    head.set_reshard_after_forward(False)
    head.set_reshard_after_backward(False)
    return head


def reshard(model: nn.Module) -> None:
    """Go back to the shards: after an evaluation some parameters are whole still, in the precision of computing."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def load_whole(model: nn.Module, tensors: dict[str, Any]) -> None:
    """Load whole weights into a model that may be sharded. Every process must call it, with all of them."""
    if isinstance(model, FSDPModule):
        set_model_state_dict(model, tensors, options=StateDictOptions(full_state_dict=True))
    else:
        model.load_state_dict(tensors)


def whole(tensor: Tensor) -> Tensor:
    """Gather a tensor from its shards. Every process must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
