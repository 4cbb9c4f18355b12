"""Puts LoRA on the modules that get it, and full copies of the other trained parts beside it, through PEFT."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import BitsAndBytesConfig, PreTrainedModel

from minicpmv.errors import UsageError
from minicpmv.models.adapters.attaching import attach_adapter
from minicpmv.releases.row import Network, Parts
from minicpmv.training.flags.declared.learning import LearningArguments
from minicpmv.training.learning.parts import leave_out_unread, parts_of
from minicpmv.training.learning.targets import find_parameters, find_targets, network_of, resolve_target

__all__ = [
    "add_lora",
    "as_plain_lora",
    "is_named",
    "modules_beside",
    "modules_to_save",
    "quantization",
    "wanted_parameters",
    "wanted_targets",
]

_START = "minicpmv_lora_start"
"""Attribute of a PEFT model: what LoRA took out of the base when it started, by the matrices' names."""


def modules_beside(parts: Parts) -> dict[str, str]:
    """Return the module that PEFT trains fully beside LoRA for each switch: by the last piece of its name.

    >>> modules_beside(Parts())["tune_embeddings"]
    'embed_tokens'
    """
    places = {
        "tune_embeddings": parts.embeddings,
        "tune_resampler": parts.connector,
        "tune_vision": parts.tower,
        "tune_output_head": parts.head,
    }
    return {switch: place.rpartition(".")[2] for switch, place in places.items()}


def modules_to_save(run: LearningArguments, parts: Parts) -> list[str]:
    """Say which modules are trained fully beside LoRA; the switches are settled."""
    listed = run.listed_beside_lora
    return (
        [module for name, module in modules_beside(parts).items() if getattr(run, name)] if listed is None else listed
    )


def _placed(modules: list[str], network: Network) -> list[str]:
    """Write full names of modules where the released class may have others of the same last name, which are carried.

    PEFT goes by how a name ends: ``embed_tokens`` is also a module of MiniCPM-o's speech.
    """
    parts = network.parts
    places = (parts.embeddings, parts.connector, parts.tower, parts.head) if network.carried else ()
    full = {place.rpartition(".")[2]: place for place in places}
    return [full.get(module, module) for module in modules]


def is_named(name: str, module: str) -> bool:
    """Whether a full name is that of a module to save, which may be its last pieces: 4.6 has two mergers.

    >>> is_named("model.vision_tower.vit_merger", "merger")
    False
    """
    return f".{name}".endswith(f".{module}")


def wanted_targets(model: nn.Module, run: LearningArguments) -> list[str]:
    """Return the full names of the modules that get LoRA, and of tensors that are no module.

    Raises:
        UsageError: The flags name none, or one that cannot carry it.
    """
    modules = find_targets(
        model, run.lora_target_modules, layers=run.lora_layers_to_transform, pattern=run.lora_layers_pattern
    )
    return [*modules, *wanted_parameters(model, run)]


def wanted_parameters(model: nn.Module, run: LearningArguments) -> list[str]:
    """Return the full names of tensors that get LoRA and are no module, such as those of experts."""
    return find_parameters(
        model, run.lora_target_modules, layers=run.lora_layers_to_transform, pattern=run.lora_layers_pattern
    )


def quantization(compute_dtype: torch.dtype, network: Network) -> BitsAndBytesConfig:
    """Say how ``--q_lora`` loads the frozen linear layers of the language model."""
    parts = network.parts
    beside = (parts.embeddings, parts.connector, parts.tower, parts.head)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute_dtype,
        # Trained fully, or read directly by code that does not know packed weights. In full: transformers takes them as
        # beginnings or ends of names. The name of the argument is historical; it holds for 4 bits too.
        llm_int8_skip_modules=[*beside, *network.never_packed],
    )


def add_lora(model: PreTrainedModel, run: LearningArguments, *, keep_dtype: bool) -> PeftModel:
    """Wrap the model.

    Args:
        model: The base model; its parameters are frozen.
        run: The flags, with every switch settled.
        keep_dtype: Leave the trained tensors in the precision they were loaded in: DeepSpeed keeps float32 masters of
            them. Otherwise they become float32, since a step of the optimizer is often below bfloat16's resolution.

    Raises:
        UsageError: PEFT refuses the flags.
        CheckpointError: The adapter to go on from does not fit the model.
    """
    # PEFT's own cast covers the LoRA matrices only, and ZeRO-3 wants everything that is trained in one precision.
    if run.lora_weight_path:
        wrapped = attach_adapter(model, run.lora_weight_path, is_trainable=True, autocast_adapter_dtype=not keep_dtype)
        _set_dropout(wrapped, run.lora_dropout)
    else:
        wrapped = _new_adapter(model, run, autocast=not keep_dtype)
    base = model.name_or_path
    if base and Path(base).is_dir():  # an adapter finds its base by this entry, from wherever it is loaded
        wrapped.peft_config["default"].base_model_name_or_path = str(Path(base).resolve())
    leave_out_unread(wrapped)
    if not keep_dtype:
        _make_trained_float32(wrapped)
    if run.changes_base:
        matrices = {name: parameter for name, parameter in wrapped.named_parameters() if _is_matrix(name)}
        setattr(wrapped, _START, {name: matrix.detach().cpu().clone() for name, matrix in matrices.items()})
    return wrapped


def _set_dropout(model: PeftModel, dropout: float) -> None:
    """Let an adapter that exists drop this share of its inputs, whatever it was trained with before."""
    setattr(model.peft_config["default"], "lora_dropout", dropout)  # noqa: B010  not of the class it is typed as
    for module in model.modules():
        layers = getattr(module, "lora_dropout", None)
        if isinstance(layers, nn.ModuleDict) and "default" in layers:
            layers["default"] = nn.Dropout(dropout) if dropout else nn.Identity()


def _make_trained_float32(model: nn.Module) -> None:
    """Cast what is trained to float32, and a norm whole where a part of it is trained.

    Autocast brings weight and bias of a linear layer to one precision; on a CPU it leaves those of a norm alone, which
    refuses two. ``--lora_bias all`` trains a norm's bias beside its frozen weight.
    """
    for module in model.modules():
        own = list(module.parameters(recurse=False))
        is_whole = isinstance(module, nn.LayerNorm) and any(parameter.requires_grad for parameter in own)
        for parameter in own:
            if parameter.requires_grad or is_whole:
                parameter.data = parameter.data.float()


def _new_adapter(model: PreTrainedModel, run: LearningArguments, *, autocast: bool) -> PeftModel:
    start: Any = True if run.init_lora_weights == "true" else run.init_lora_weights
    try:
        config = LoraConfig(
            task_type="CAUSAL_LM",
            r=run.lora_r,
            lora_alpha=run.lora_alpha,
            lora_dropout=run.lora_dropout,
            target_modules=resolve_target(
                run.lora_target_modules,
                network_of(model),
                layers=run.lora_layers_to_transform,
                pattern=run.lora_layers_pattern,
            )
            or [],
            target_parameters=wanted_parameters(model, run) or None,
            bias=run.lora_bias,
            modules_to_save=_placed(modules_to_save(run, parts_of(model)), network_of(model)) or None,
            use_rslora=run.use_rslora,
            use_dora=run.use_dora,
            init_lora_weights=start,
        )
        wrapped = get_peft_model(model, config, autocast_adapter_dtype=autocast)
    except ValueError as error:
        raise UsageError(
            f"--lora_...: found flags that PEFT refuses ({error}), expected what it accepts\n"
            "  fix: change or remove the flag that it names (`minicpmv train --help` explains each)"
        ) from error
    return wrapped  # pyright: ignore[reportReturnType] # a mixed model only with mixed=True


def _is_matrix(name: str) -> bool:
    return ".lora_A." in name or ".lora_B." in name


def as_plain_lora(model: PeftModel, tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Say what an adapter is for the unchanged base, if LoRA started by taking a part out of the base's weights.

    That part is ``B0 A0``, so the base is ``W - B0 A0`` while training, and ``W + (B A - B0 A0)`` is what was learnt:
    LoRA of twice the rank, ``[B, -B0] [A; A0]``. Source: arXiv:2404.02948, appendix; PEFT's own conversion drops
    all that is trained beside LoRA.

    Args:
        model: The model as :func:`add_lora` returned it.
        tensors: What is saved, by full name, whole and on the CPU.

    Returns:
        What to save instead, and what the adapter's config says differently then.
    """
    start: dict[str, Tensor] | None = getattr(model, _START, None)
    if start is None:
        return tensors, {}
    plain = dict(tensors)
    for name, before in start.items():
        now = tensors[name]
        pieces, axis = ([now, before], 0) if ".lora_A." in name else ([now, -before], 1)
        plain[name] = torch.cat([piece.to(now.dtype) for piece in pieces], dim=axis).contiguous()
    config = model.peft_config["default"]
    rank, alpha = getattr(config, "r"), getattr(config, "lora_alpha")  # noqa: B009  not of the class it is typed as
    # The scale stays: alpha / r, or alpha / sqrt(r).
    scaled = alpha * math.sqrt(2) if getattr(config, "use_rslora", False) else alpha * 2
    return plain, {"r": rank * 2, "lora_alpha": scaled, "init_lora_weights": True}
