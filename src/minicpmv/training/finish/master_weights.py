"""Collects what was trained, whole and in the precision in which it was trained, on the process that saves it.

DeepSpeed trains float32 masters and rounds the model's weights from them in every step, so what is saved comes from the
masters. Its checkpoints hold both, and a resumed run reads the masters there.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from minicpmv.training.distributed.engine import load_deepspeed
from minicpmv.training.distributed.fsdp import reshard, whole
from minicpmv.training.trainer import MiniCPMVTrainer

__all__ = ["collect_adapter", "collect_model"]


def collect_model(trainer: MiniCPMVTrainer) -> dict[str, Tensor]:
    """Collect a full model's tensors by its own names; empty on a process that saves nothing. All must call it."""
    model: Any = trainer.accelerator.unwrap_model(trainer.model)
    if not (trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled):
        return model.state_dict() if trainer.args.should_save else {}
    # None or empty except on the first process.
    found: Any = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    tensors: dict[str, Tensor] = found if found and trainer.args.should_save else {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        master = _master(parameter) if trainer.is_deepspeed_enabled else None
        if master is not None and trainer.args.should_save:
            tensors[name] = master.cpu()
    return tensors


def collect_adapter(model: nn.Module) -> dict[str, Tensor]:
    """Collect on the CPU what an adapter consists of, by full name. Every process must call it, and each gets all."""
    reshard(model)
    wanted = {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad or ".modules_to_save." in name
    }
    tensors = {name: _whole(parameter) for name, parameter in wanted.items()}
    buffers = {name: buffer for name, buffer in model.named_buffers() if ".modules_to_save." in name}
    return tensors | {name: buffer.detach().cpu() for name, buffer in buffers.items()}


def _whole(parameter: Any) -> Tensor:
    """Copy a tensor to the CPU; ZeRO-3 and FSDP keep a slice of it on each process."""
    master = _master(parameter)
    if master is not None:
        return master.cpu()
    if hasattr(parameter, "ds_id"):
        with load_deepspeed().zero.GatheredParameters([parameter]):
            return parameter.detach().cpu().clone()
    return whole(parameter.detach()).cpu().clone()


def _master(parameter: Any) -> Tensor | None:
    """Put together the float32 master of a trained weight, on every process; None if there is no other than itself."""
    if not parameter.requires_grad or not (hasattr(parameter, "ds_id") or hasattr(parameter, "_hp_mapping")):
        return None
    return load_deepspeed().utils.safe_get_full_fp32_param(parameter)
