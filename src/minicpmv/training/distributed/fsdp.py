"""Sets up FSDP2, torch's own sharding, for these models as ``--fsdp`` asks, and verifies that it acts.

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
    """Set what accelerate reads before the processes join; without it they could not gather on the CPU."""
    os.environ |= {"ACCELERATE_USE_FSDP": "true", "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT"}


def start_fsdp(args: TrainingArguments) -> None:
    """Make processes on a CPU shard as on GPUs, and compute in the run's precision without rounding the loss to it."""
    if args.use_cpu:
        # Private: accelerate offers FSDP to every kind of device but the CPU, where it silently falls back to DDP;
        # torch's gloo does all that is needed. accelerate uses this device kind for nothing else. It may go when
        # accelerate's state takes FSDP on MULTI_CPU.
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_NPU
    half = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None
    if half is not None:
        # accelerate's own policy also casts the output, and so the loss, and sums gradients in half precision.
        _plugin_settings(args)["mixed_precision_policy"] = MixedPrecisionPolicy(half, torch.float32)


def choose_units(args: TrainingArguments, model: nn.Module) -> None:
    """Choose the modules that are gathered one at a time: the classes that the model never splits.

    Everything else belongs to the whole model, whose forward gathers it. A container module without a forward of its
    own is never called, so nothing would gather it.

    Raises:
        UsageError: The model's weights are quantized.
    """
    if getattr(model, "is_quantized", False):
        raise UsageError(
            "--fsdp true: found quantized weights, expected unquantized ones: FSDP2 cannot shard quantized weights\n"
            "  fix: use --deepspeed zero2"
        )
    named: Any = model  # PEFT forwards the attribute
    classes = {type(module) for module in model.modules() if type(module).__name__ in named._no_split_modules}
    called = sorted(each.__name__ for each in classes if each.forward is not nn.Module.forward)
    _plugin_settings(args)["transformer_cls_names_to_wrap"] = ",".join(called)


def _plugin_settings(args: TrainingArguments) -> dict[str, Any]:
    """Return the settings from which Trainer makes accelerate's plugin; some of them have no flag."""
    settings: Any = args.fsdp_plugin_args
    assert settings is not None, "transformers makes it of --fsdp"
    return settings


def check_sharded(model: nn.Module, args: TrainingArguments) -> None:
    """Verify before the first step that the model was really sharded.

    Raises:
        ConfigError: It was not.
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
    """Gather once the modules that are never called: the originals that PEFT keeps of the modules it trains fully.

    Where gradients are summed in another precision than the computation's, torch 2.13 ends a backward pass by reading
    from every module a tensor that only its first gathering creates. This may go when torch skips unused modules.
    Every process must call it.
    """
    for name, module in model.named_modules():
        if ".original_module" in name and isinstance(module, FSDPModule):
            module.unshard()
            module.reshard()


def hold_head(model: nn.Module) -> FSDPModule:
    """Keep the output head gathered from its first use in a step on, instead of gathering it for each chunk.

    The loss calls it chunk by chunk, and torch would reshard it after each chunk's backward pass: ten gathers of a
    gigabyte for a vocabulary of 150,000.

    Returns:
        The module that holds it. Reshard it after each backward pass, since the optimizer trains the shards.
    """
    named: Any = model  # PEFT forwards the attribute
    head = named.get_output_embeddings()
    assert isinstance(head, FSDPModule), "accelerate shards the head as a unit, alone or with the module it is tied to"
    head.set_reshard_after_forward(False)
    head.set_reshard_after_backward(False)
    return head


def reshard(model: nn.Module) -> None:
    """Reshard a model: after an evaluation some parameters are still gathered, in the computation's precision."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def keep_whole(model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors to distribute after sharding: on rank 0 all tensors of the model, on other ranks none.

    On the other ranks, tensors without values are given an address, which costs no memory until it is written to.
    accelerate finds parameters in the optimizer by their addresses after it has sharded the model.
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
    """Distribute the tensors that rank 0 reads as shards, one tensor at a time. Every process must call it.

    The libraries' own functions do not fit these models. accelerate's ignores buffers that are saved, such as the
    positions of a resampler; torch's needs the tensors of the whole model at once.

    Args:
        model: The sharded model; its values are overwritten.
        read: Called on rank 0 only, with a tensor's name.
        names: Tensors to distribute; all by default.
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
    """List the tensors of a checkpoint, and then the buffers that are computed instead of saved."""
    saved = model.state_dict()
    return [*saved.items(), *((name, buffer) for name, buffer in model.named_buffers() if name not in saved)]


def whole(tensor: Tensor) -> Tensor:
    """Gather a tensor of any shape from its shards. Every process must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
