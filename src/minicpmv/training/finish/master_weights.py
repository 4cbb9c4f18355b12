"""Collects the trained weights, unsharded and in the precision of training, on the process that saves them.

DeepSpeed trains float32 masters and rounds the model's weights from them in every step, so the masters are saved. Its
checkpoints hold both, and a resumed run reads the masters.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from minicpmv.training.distributed.engine import load_deepspeed
from minicpmv.training.distributed.fsdp import reshard, whole
from minicpmv.training.loop.trainer import MiniCPMVTrainer

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


def collect_adapter(model: nn.Module, *, is_writing: bool) -> dict[str, Tensor]:
    """Collect an adapter's tensors on the CPU, by full name. Every process must call it.

    Args:
        model: PEFT's model.
        is_writing: Whether this process saves it; the others help to gather, copy nothing and get nothing.
    """
    reshard(model)
    tensors: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad or ".modules_to_save." in name:
            with _gathered(parameter) as found:
                if is_writing:
                    tensors[name] = found.to("cpu", copy=True)
    if is_writing:
        buffers = {name: buffer for name, buffer in model.named_buffers() if ".modules_to_save." in name}
        tensors |= {name: buffer.detach().cpu() for name, buffer in buffers.items()}
    return tensors


@contextmanager
def _gathered(parameter: Any) -> Iterator[Tensor]:
    """Gather a tensor on its device, from the shards of ZeRO-3 or FSDP; ZeRO-3 shards it again at the end."""
    master = _master(parameter)
    if master is not None:
        yield master
    elif hasattr(parameter, "ds_id"):
        with load_deepspeed().zero.GatheredParameters([parameter]):
            yield parameter.detach()
    else:
        yield whole(parameter.detach())


def _master(parameter: Any) -> Tensor | None:
    """Assemble the float32 master of a trained weight on every process; None if the weight has no separate master."""
    if not parameter.requires_grad or not (hasattr(parameter, "ds_id") or hasattr(parameter, "_hp_mapping")):
        return None
    return load_deepspeed().utils.safe_get_full_fp32_param(parameter)
