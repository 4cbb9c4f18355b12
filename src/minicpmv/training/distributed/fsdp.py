"""FSDP2, torch's own sharding: reads what ``--fsdp`` asks for, sets it up for these models, makes sure that it acts.

The sharding itself is torch's ``fully_shard``, called by accelerate. FSDP1, which wraps a model instead of changing its
parameters, is not supported.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Container
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import TrainingArguments

from minicpmv.errors import ConfigError, UsageError

__all__ = [
    "check_sharded",
    "choose_units",
    "gather_idle",
    "hand_out",
    "hold_head",
    "keep_whole",
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


def keep_whole(model: nn.Module) -> dict[str, Tensor]:
    """Keep what is to be handed out after sharding: on the first process all tensors of the model, on others none.

    There, tensors without values get an address, which costs no memory as long as nobody writes to it. By the addresses
    of parameters accelerate finds them in the optimizer after it has sharded the model.
    """
    if torch.distributed.get_rank() == 0:
        return dict(_saved_and_computed(model))
    places: dict[int, Tensor] = {}  # tied ones stay one
    for module in model.modules():
        kinds: list[dict[str, Any]] = [module._parameters, module._buffers]
        for kind in kinds:
            for name, tensor in kind.items():
                if tensor is None or not tensor.is_meta:
                    continue
                if id(tensor) not in places:
                    place = torch.empty_like(tensor, device="cpu", requires_grad=False)
                    is_learning = tensor.requires_grad
                    places[id(tensor)] = nn.Parameter(place, is_learning) if kind is module._parameters else place
                kind[name] = places[id(tensor)]
    return {}


def hand_out(model: nn.Module, read: Callable[[str], Tensor], *, names: Container[str] | None = None) -> None:
    """Give each process its shards of what the first one reads, one tensor at a time. Every process must call it.

    The libraries' own ways do not fit these models. accelerate's knows no buffers that are saved, such as the positions
    of a resampler; torch's wants the tensors of the whole model at once.

    Args:
        model: Sharded, with values of any kind.
        read: Called on the first process alone, with a tensor's name.
        names: What is handed out; everything if not given.
    """
    reshard(model)
    is_first = torch.distributed.get_rank() == 0
    with torch.no_grad():
        for name, tensor in _saved_and_computed(model):
            if names is not None and name not in names:
                continue
            if not isinstance(tensor, DTensor):
                torch.distributed.broadcast(tensor.copy_(read(name)) if is_first else tensor, src=0)
                continue
            full = torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device_mesh.device_type)
            if is_first:
                full.copy_(read(name))
            shard = distribute_tensor(full, tensor.device_mesh, tensor.placements)  # the first process's values
            tensor.to_local().copy_(shard.to_local())


def _saved_and_computed(model: nn.Module) -> list[tuple[str, Tensor]]:
    """List what a checkpoint holds, and then the buffers that are computed instead."""
    saved = model.state_dict()
    return [*saved.items(), *((name, buffer) for name, buffer in model.named_buffers() if name not in saved)]


def whole(tensor: Tensor) -> Tensor:
    """Gather a tensor of any shape from its shards. Every process must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
