"""Resolves what learns before a weight is loaded: each open switch, from the others and from the model's modules.

Works on a model without weights, so that a wrong expression, or a rate that nothing has, costs a second.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from minicpmv.errors import UsageError
from minicpmv.models.adapters import foreign_adapters
from minicpmv.models.adapters.adapter_config import read_adapter_config
from minicpmv.releases.row import Network
from minicpmv.training.flags.declared.learning import LearningArguments
from minicpmv.training.learning.lora import (
    is_named,
    modules_beside,
    modules_to_save,
    wanted_parameters,
    wanted_targets,
)
from minicpmv.training.learning.parts import PART_FLAGS, part_of, parts_of
from minicpmv.training.learning.rates import check_rates
from minicpmv.training.learning.targets import network_of, resolve_target
from minicpmv.wording import suggest

__all__ = ["refuse_partitioned_experts", "resolve_learning"]

Settings = TypeVar("Settings", bound=LearningArguments)
_NO_DROPOUT = "--lora_dropout: 0, since PEFT computes LoRA on experts without an input of its own to drop"
_TIED = (
    "--tune_embeddings: false, although the official recipe trains them: this model's output head is the same weights, "
    "and PEFT would train a copy of one of the two, which cannot be merged"
)
_OF_ADAPTER = ("lora_r", "lora_alpha", "lora_bias", "use_rslora", "use_dora")


def resolve_learning(run: Settings, model: nn.Module, *, given: Set[str]) -> tuple[Settings, list[str]]:
    """Decide for each part whether it is trained.

    Args:
        run: The settings.
        model: The base model; its weights may lie on the ``meta`` device.
        given: Names of all flags that were given.

    Returns:
        The settings, every ``tune_...`` true or false, and with ``lora_weight_path`` as the adapter was trained; and
        notices on what the user may not expect.

    Raises:
        UsageError: Flags do not fit the model or the adapter, could have no effect, or leave nothing to learn.
    """
    if run.lora_weight_path:
        run = _take_over(run, _read_adapter(run.lora_weight_path), network_of(model), given)
    parts = parts_of(model)
    tied = _heads_are_tied(model)
    targets = wanted_targets(model, run) if run.use_lora else []
    with_lora = {part_of(f"{name}.", parts) for name in targets}
    unexpected: list[str] = []
    if run.use_lora and wanted_parameters(model, run):
        _check_whole_tensors(run, given)
        unexpected += [_NO_DROPOUT] * (run.lora_dropout > 0)
        run = replace(run, lora_dropout=0.0)
    only_adapters = run.lora_preset == "adapters_only" or run.listed_beside_lora is not None
    if tied and run.use_lora and run.tune_embeddings is None and not only_adapters:
        unexpected.append(_TIED)
    run = _fill_in(run, with_lora, modules_beside(parts), tied=tied)
    if run.use_lora:
        _check_beside_lora(run, model, targets)
    full = {part for part, name in PART_FLAGS.items() if getattr(run, name)}
    if run.use_lora and run.lora_bias == "all":
        full = set(PART_FLAGS)
    if not full and not with_lora:
        switches = ", ".join(f"--{name}" for name in PART_FLAGS.values())
        raise UsageError(
            f"{switches}: found all of them false, so nothing would learn, expected one true\n  fix: switch one on"
        )
    check_rates(run, full=full, with_lora=with_lora)
    asked = run.vision_activation_checkpointing and "vision_activation_checkpointing" in given
    if asked and "vision tower" not in full | with_lora:
        raise UsageError(
            f"--vision_activation_checkpointing: found {str(asked).lower()}, expected a vision tower that learns; a "
            "frozen one stores no activations\n  fix: remove the flag, or use --tune_vision true"
        )
    notices = network_of(model).lora_notices
    told = [f"--lora_target_modules: {text}" for name, text in notices.items() if name in targets]
    return run, [*told, *unexpected]


def _fill_in(run: Settings, with_lora: Set[str], modules: Mapping[str, str], *, tied: bool) -> Settings:
    """Resolve open switches by the official recipe; a part with LoRA is not fully trained as well."""
    listed = run.listed_beside_lora
    if listed is not None:
        _refuse_other_names(run, listed, modules)
        run = replace(run, **{name: module in listed for name, module in modules.items()})
    run = replace(run, tune_llm=not run.use_lora if run.tune_llm is None else run.tune_llm)
    only_adapters = run.lora_preset == "adapters_only"
    defaults = {
        "tune_vision": "vision tower" not in with_lora and not only_adapters,
        "tune_resampler": "resampler" not in with_lora and not only_adapters,
        "tune_embeddings": (not tied if run.use_lora else run.tune_llm) and not only_adapters,
    }
    run = replace(run, **{name: default for name, default in defaults.items() if getattr(run, name) is None})
    if run.tune_output_head is None:
        head = not run.use_lora and bool(run.tune_embeddings if tied else run.tune_llm)
        run = replace(run, tune_output_head=head)
    if tied:
        _refuse_parting(run)
    return run


def _refuse_other_names(run: LearningArguments, listed: list[str], modules: Mapping[str, str]) -> None:
    for name, module in modules.items():
        wish = getattr(run, name)
        if wish is not None and wish != (module in listed):
            raise UsageError(
                f"--{name} {str(wish).lower()} --lora_modules_to_save {run.lora_modules_to_save}: found both, expected "
                f"them to agree on {module}\n  fix: remove --{name}, or {'list' if wish else 'do not list'} {module}"
            )


def _refuse_parting(run: LearningArguments) -> None:
    """Refuse flags by which a head and the embeddings that are its weights would no longer be the same."""
    if run.use_lora and (run.tune_embeddings or run.tune_output_head):
        one, other = ("token embeddings", "output head")[:: 1 if run.tune_embeddings else -1]
        flag = "tune_embeddings" if run.tune_embeddings else "tune_output_head"
        raise UsageError(
            f"--{flag} true: found {one} that this model has in common with its {other}, expected them frozen beside "
            "LoRA: PEFT would train a copy, and no checkpoint of this model holds two\n"
            f"  fix: --{flag} false (and leave them out of --lora_modules_to_save), or train without --use_lora; an "
            "adapter that has such a copy cannot be gone on from"
        )
    if not run.use_lora and run.tune_output_head != bool(run.tune_embeddings):
        raise UsageError(
            f"--tune_output_head {str(run.tune_output_head).lower()}: found an output head that has its weights in "
            "common with the token embeddings, expected both to learn or neither\n"
            "  fix: remove the flag, or use --tune_embeddings"
        )


def _check_whole_tensors(run: LearningArguments, given: Set[str]) -> None:
    """Refuse what PEFT cannot do where LoRA is on tensors of many experts."""
    others = {
        f"--lora_dropout {run.lora_dropout:g}": "lora_dropout" in given and run.lora_dropout,
        "--use_dora true": run.use_dora,
        f"--init_lora_weights {run.init_lora_weights}": run.changes_base,
    }
    for written, is_asked in others.items():
        if is_asked:
            raise UsageError(
                f"{written} --lora_target_modules {run.lora_target_modules}: found both, expected one: PEFT does not "
                "do this on the tensors that hold all experts of a layer\n"
                f"  fix: remove {written}, or the word from --lora_target_modules"
            )


def refuse_partitioned_experts(run: LearningArguments, model: nn.Module, settings: Mapping[str, Any]) -> None:
    """Refuse LoRA on tensors of experts under ZeRO-3, which gathers weights where a module runs.

    PEFT reads these outside of any: it would find empty ones, and end in a traceback. FSDP2 gathers whole layers.

    Args:
        run: The settings.
        model: The base model; its weights may lie on the ``meta`` device.
        settings: Those of transformers, with what DeepSpeed is to do.

    Raises:
        UsageError: Both are asked for.
    """
    zero: Any = (settings.get("deepspeed") or {}).get("zero_optimization") or {}
    if zero.get("stage") == 3 and run.use_lora and wanted_parameters(model, run):
        raise UsageError(
            f"--deepspeed --lora_target_modules {run.lora_target_modules}: found ZeRO-3 and LoRA on experts, expected "
            "one of them: ZeRO-3 gathers a module's weights when it runs, and PEFT reads those of experts outside\n"
            "  fix: use --fsdp true or --deepspeed zero2, or remove the word from --lora_target_modules"
        )


def _check_beside_lora(run: LearningArguments, model: nn.Module, targets: list[str]) -> None:
    names, parts = [name for name, _ in model.named_modules()], parts_of(model)
    full = [name for module in modules_to_save(run, parts) for name in names if is_named(name, module)]
    ends = {name.rpartition(".")[2] for name in names}
    for module in modules_to_save(run, parts):
        if not any(is_named(name, module) for name in full):
            raise UsageError(
                f"--lora_modules_to_save: found {module!r}, which names no module, expected the end of a module's "
                "name\n"
                f"  fix: {suggest(module, ends, otherwise='--lora_modules_to_save none, or name others')}"
            )
    for target in targets:
        for module in full:
            if f"{target}.".startswith(f"{module}.") or f"{module}.".startswith(f"{target}."):
                raise UsageError(
                    f"--lora_target_modules: found {target}, which is already trained fully as {module}, expected one "
                    "or the other\n  fix: narrow the expression, or set --tune_vision false (--tune_resampler, "
                    "--tune_output_head, --lora_modules_to_save)"
                )
    network = network_of(model)
    packed = [name for name, module in model.named_modules() if _is_packed(name, module, network)] if run.q_lora else []
    doubly = [module for module in full if any(f"{name}.".startswith(f"{module}.") for name in packed)]
    if doubly:
        raise UsageError(
            f"--q_lora true: found {doubly[0]} to be trained fully, expected it frozen: it is kept in 4 bits\n"
            "  fix: remove it from --lora_modules_to_save, or use --use_lora without --q_lora"
        )


def _is_packed(name: str, module: nn.Module, network: Network) -> bool:
    """Whether ``--q_lora`` keeps a module in 4 bits."""
    is_of_layers = name.startswith(f"{network.parts.layers}.") and isinstance(module, nn.Linear)
    return is_of_layers and name.rpartition(".")[2] not in network.never_packed


def _heads_are_tied(model: nn.Module) -> bool:
    tied: Any = getattr(model, "all_tied_weights_keys", {})
    return f"{parts_of(model).head}.weight" in tied


# --------------------------------------------------------------------------------------------------------- an adapter


def _read_adapter(path: str) -> dict[str, Any]:
    file = Path(path) / "adapter_config.json"
    if not file.is_file():
        raise UsageError(
            f"--lora_weight_path: found no adapter_config.json in {path!r}, expected one\n"
            "  fix: name an adapter directory"
        )
    config = read_adapter_config(Path(path))
    if config.get("peft_type") != "LORA":
        raise UsageError(
            f"--lora_weight_path: found no LoRA adapter in {path!r}, expected one\n  fix: name an adapter directory"
        )
    if config.get("target_parameters"):
        raise UsageError(
            f"--lora_weight_path: found LoRA on bare tensors in {path!r} (target_parameters, as of experts), expected "
            "it on modules\n"
            "  fix: --resume_from_checkpoint goes on with a run; or merge the adapter and start a new one on the result"
        )
    # Other tools keep what they trained fully in a file of its own, unsaid.
    unsaid = foreign_adapters.modules_beside(Path(path), config)
    return {**config, "modules_to_save": config.get("modules_to_save") or unsaid}


def _take_over(run: Settings, adapter: dict[str, Any], network: Network, given: Set[str]) -> Settings:
    """Return the settings that an adapter was trained with.

    Raises:
        UsageError: A flag that was given says something else.
    """
    beside = modules_beside(network.parts)
    named = adapter.get("modules_to_save") or []
    # With or without the way to it; of its own, a module has the name of its part.
    full = [last if (last := module.rpartition(".")[2]) in beside.values() else module for module in named]
    target = adapter.get("target_modules")
    asked = resolve_target(
        run.lora_target_modules, network, layers=run.lora_layers_to_transform, pattern=run.lora_layers_pattern
    )
    settled = {
        "lora_r": (run.lora_r, adapter.get("r")),
        "lora_alpha": (run.lora_alpha, adapter.get("lora_alpha")),
        "lora_bias": (run.lora_bias, adapter.get("bias")),
        "lora_modules_to_save": (set(run.listed_beside_lora or []), set(full)),
        "lora_target_modules": (asked, target),
        "lora_layers_to_transform": (asked, target),
        "use_rslora": (run.use_rslora, bool(adapter.get("use_rslora"))),
        "use_dora": (run.use_dora, bool(adapter.get("use_dora"))),
        "lora_preset": (run.lora_preset or "official", "official" if full else "adapters_only"),
        **{name: (getattr(run, name), module in full) for name, module in beside.items()},
    }
    others = [name for name in sorted(settled) if name in given and settled[name][0] != settled[name][1]]
    if others:
        said = ", ".join(f"{name} {settled[name][1]}" for name in others)
        raise UsageError(
            f"--{', --'.join(others)}: found with --lora_weight_path, expected what its adapter "
            f"was trained with ({said})\n"
            "  fix: remove these flags, or --lora_weight_path to start a new adapter"
        )
    # How an adapter is trained is no part of it. 0 is asked for, or needed where answers are compared with a reference.
    keeps_dropout = "lora_dropout" in given or not run.lora_dropout
    return replace(
        run,
        **{name: settled[name][1] for name in _OF_ADAPTER},
        lora_dropout=run.lora_dropout if keeps_dropout else adapter.get("lora_dropout") or 0.0,
        **{name: module in full for name, module in beside.items()},
        lora_modules_to_save=",".join(full) or "none",
        lora_layers_to_transform=None,
        lora_layers_pattern=None,
        lora_preset=None,
        lora_target_modules=target if isinstance(target, str) else rf"(.*\.)?({'|'.join(target or [])})",
    )
