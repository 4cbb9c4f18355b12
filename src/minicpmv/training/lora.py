"""Puts LoRA on the language model, and full copies of the other trained parts beside it, through PEFT."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel

from minicpmv.errors import ConfigError, UsageError
from minicpmv.training.arguments import RunArguments

__all__ = ["add_lora", "is_lora_tensor", "modules_to_save", "quantisation"]

# Trained fully, or read directly by code that does not know packed weights.
_NEVER_QUANTISED = ["vpm", "resampler", "embed_tokens", "lm_head"]


def is_lora_tensor(name: str) -> bool:
    """Whether a parameter of a PEFT model is one of LoRA's own."""
    return ".lora_" in name


def modules_to_save(run: RunArguments) -> list[str]:
    """Say which modules are trained fully beside LoRA; the official recipe unless the user lists others."""
    if run.lora_modules_to_save is None:
        return ["embed_tokens", "resampler", *(["vpm"] if run.tune_vision else [])]
    names = [name.strip() for name in run.lora_modules_to_save.replace(" ", ",").split(",") if name.strip()]
    return [] if names == ["none"] else names


def quantisation(compute_dtype: torch.dtype) -> BitsAndBytesConfig:
    """Say how ``--q_lora`` loads the frozen linear layers of the language model.

    Raises:
        ConfigError: bitsandbytes is not installed.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(
            "--q_lora: found no bitsandbytes, expected the package\n  fix: pip install bitsandbytes, or use --use_lora"
        )
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute_dtype,
        llm_int8_skip_modules=_NEVER_QUANTISED,  # the name is historical; it holds for 4 bits too
    )


def add_lora(model: PreTrainedModel, run: RunArguments, *, keep_dtype: bool) -> PeftModel:
    """Wrap the model.

    Args:
        model: The base model; its parameters are frozen.
        run: The LoRA flags.
        keep_dtype: Leave the trained tensors in the precision they were loaded in: DeepSpeed keeps float32 masters of
            them. Otherwise they become float32, since a step of the optimizer is often below bfloat16's resolution.

    Raises:
        UsageError: The flags name no module, or one module twice.
    """
    # PEFT's own cast covers the LoRA matrices only, and ZeRO-3 wants everything that is trained in one precision.
    if run.lora_weight_path:
        wrapped = _continue_adapter(model, run.lora_weight_path, autocast=not keep_dtype)
    else:
        wrapped = _new_adapter(model, run, autocast=not keep_dtype)
    base = model.name_or_path
    if base and Path(base).is_dir():  # an adapter finds its base by this entry, from wherever it is loaded
        wrapped.peft_config["default"].base_model_name_or_path = str(Path(base).resolve())
    if not keep_dtype:
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    return wrapped


def _new_adapter(model: PreTrainedModel, run: RunArguments, *, autocast: bool) -> PeftModel:
    target, full = _target(run.lora_target_modules), modules_to_save(run)
    _check_names(model, run.lora_target_modules, target, full)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=run.lora_r,
        lora_alpha=run.lora_alpha,
        lora_dropout=run.lora_dropout,
        target_modules=target,
        bias=run.lora_bias,
        modules_to_save=full or None,
        layers_to_transform=run.lora_layers_to_transform,
        layers_pattern=run.lora_layers_pattern,
    )
    try:
        wrapped = get_peft_model(model, config, autocast_adapter_dtype=autocast)
    except ValueError as error:
        raise UsageError(f"--lora_...: PEFT refuses: {error}\n  fix: correct the flag it names") from error
    return wrapped  # pyright: ignore[reportReturnType] # a mixed model only with mixed=True


def _continue_adapter(model: PreTrainedModel, path: str, *, autocast: bool) -> PeftModel:
    if not (Path(path) / "adapter_config.json").is_file():
        raise UsageError(
            f"--lora_weight_path: found no adapter_config.json in {path!r}\n  fix: name an adapter directory"
        )
    return PeftModel.from_pretrained(model, path, is_trainable=True, autocast_adapter_dtype=autocast)


def _target(written: str) -> str:
    """Turn the flag into one regular expression; bare names would also hit the vision tower's projections."""
    if written == "all-linear":
        return r"llm\.model\.layers\.\d+\..*_proj"
    if re.fullmatch(r"\w+(,\s*\w+)*,?", written):
        names = "|".join(name.strip() for name in written.split(",") if name.strip())
        return rf"llm\..*\.({names})"
    return written


def _check_names(model: nn.Module, written: str, target: str, full: list[str]) -> None:
    try:
        pattern = re.compile(target)
    except re.error as error:
        raise UsageError(
            f"--lora_target_modules: found {written!r}, no regular expression ({error})\n  fix: correct or quote it"
        ) from error
    names = [name for name, _ in model.named_modules()]
    hits = [name for name in names if pattern.fullmatch(name)]
    if not hits:
        example = next((name for name in names if name.endswith("q_proj") and name.startswith("llm.")), "llm.model")
        raise UsageError(
            f"--lora_target_modules: found {written!r}, which matches no module, expected names like {example}\n"
            "  fix: correct the expression; it must match a full name"
        )
    for module in full:
        if not any(name.endswith(module) for name in names):
            raise UsageError(f"--lora_modules_to_save: found {module!r}, which names no module\n  fix: correct it")
    twice = [hit for hit in hits if any(re.search(rf"(^|\.){re.escape(module)}(\.|$)", hit) for module in full)]
    if twice:
        raise UsageError(
            f"--lora_target_modules: found {twice[0]}, which is already trained fully, expected one or the other\n"
            "  fix: narrow the expression, or set --tune_vision false / --lora_modules_to_save"
        )
