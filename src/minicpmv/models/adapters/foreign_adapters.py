"""Adapters as other tools write them, in the names and the one layout that PEFT and this package know.

What differs is named in docs/merging.md, tool by tool. An adapter that needs nothing is used where it lies; any other
is written anew for as long as it is needed. Whether its tensors fit a model is for ``adapters`` to say.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors.torch import save_file
from torch import Tensor

from minicpmv.errors import CheckpointError
from minicpmv.files.scratch import scratch_folder
from minicpmv.models.adapters.adapter_config import ADAPTER_CONFIG
from minicpmv.models.checkpoints.key_names import own_shapes, released_pieces
from minicpmv.models.checkpoints.weight_files import Shape, WeightReader

__all__ = ["ADAPTER_WEIGHTS", "as_peft_writes_it", "check_kind", "modules_beside"]

ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")

_PREFIX = "base_model.model."
_BESIDE = ("vpm_resampler_embedtokens.pt", "vit.safetensors")
"""Fully trained tensors beside LoRA: the official scripts of 2024, and ms-swift's ``lora_llm``."""

_TRAINED_BESIDE = {
    "vpm.": "vpm",
    "resampler.": "resampler",
    "llm.model.embed_tokens.": "embed_tokens",
    "llm.lm_head.": "lm_head",
}
"""Where the name of such a tensor begins -> the module that PEFT shall replace."""


def check_kind(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse an adapter that is not LoRA.

    Raises:
        CheckpointError: It is of another kind, which is named.
    """
    kind = config.get("swift_type") or config.get("peft_type")
    altered = [name for name in ("use_qa_lora", "use_merged_linear") if config.get(name)]
    if kind != "LORA" or altered:
        raise CheckpointError(
            f"{folder / ADAPTER_CONFIG}: found an adapter of the kind {' with '.join([str(kind), *altered])}, expected "
            "LORA\n  fix: merge it into its base with the tool that trained it, and use the merged model"
        )


def modules_beside(folder: Path, config: Mapping[str, Any]) -> list[str]:
    """Name the modules that were trained fully beside LoRA without the adapter's config saying so.

    Args:
        folder: The adapter's.
        config: What its ``adapter_config.json`` holds.

    Raises:
        CheckpointError: Tensors beside it belong to no such module.
    """
    if config.get("modules_to_save"):
        return []
    return sorted({_module_of(_released(name), folder) for name in _names_beside(folder)})


@contextmanager
def as_peft_writes_it(folder: Path, config: Mapping[str, Any], model: Any) -> Iterator[Path]:
    """Give the directory of an adapter whose names are the model's own: itself, or one that lives as long.

    Args:
        folder: The adapter's, with weights.
        config: What its ``adapter_config.json`` holds.
        model: The model that it belongs to, without an adapter.

    Raises:
        CheckpointError: Tensors that lie beside it have no place in any model.
    """
    reader = _weights_of(folder)
    pieces, modules = released_pieces(model), modules_beside(folder, config)
    # A longer name beside the released one is PEFT's: with `bias` it saves those of replaced modules twice.
    is_ours = all(
        _PREFIX + _released(name) in reader.outlines and not _owns(_released(name), pieces) for name in reader.outlines
    )
    if is_ours and not modules and "swift_type" not in config:
        yield folder
        return
    readers = dict.fromkeys(reader.outlines, reader)
    if modules:
        readers |= _names_beside(folder)
    shapes = own_shapes(model)
    tensors = {
        own: part
        for name, source in readers.items()
        for own, part in _as_own(_released(name), source.read(name), pieces, shapes).items()
    }
    targets = sorted({name.partition(".lora_")[0] for name in tensors if ".lora_" in name})
    settled = {name: config[name] for name in config.keys() & {field.name for field in fields(LoraConfig)}}
    settled |= {"peft_type": "LORA", "modules_to_save": config.get("modules_to_save") or modules or None}
    settled |= {"target_modules": targets, "layers_to_transform": None, "layers_pattern": None}
    with scratch_folder("adapter") as made:
        whole = {
            _PREFIX + name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
        }
        save_file(whole, made / ADAPTER_WEIGHTS[0], metadata={"format": "pt"})
        (made / ADAPTER_CONFIG).write_text(json.dumps(settled), encoding="utf-8")
        yield made


def _weights_of(folder: Path) -> WeightReader:
    return WeightReader([folder / name for name in ADAPTER_WEIGHTS if (folder / name).is_file()][:1])


def _names_beside(folder: Path) -> dict[str, WeightReader]:
    """Names of the fully trained tensors beside LoRA that the adapter's own file lacks, and who reads them."""
    file = next((folder / name for name in _BESIDE if (folder / name).is_file()), None)
    if file is None:
        return {}
    reader, known = WeightReader([file]), _weights_of(folder).outlines
    return {name: reader for name in reader.outlines if ".lora_" not in name and _PREFIX + _released(name) not in known}


def _released(name: str) -> str:
    """A tensor's name in the bare model: without PEFT's prefix, its wrappers and the adapter's own name."""
    bare = name.removeprefix(_PREFIX).replace(".modules_to_save.default.", ".").replace(".default", "")
    return bare.replace(".lora_magnitude_vector.weight", ".lora_magnitude_vector")


def _module_of(name: str, folder: Path) -> str:
    for beginning, module in _TRAINED_BESIDE.items():
        if name.startswith(beginning):
            return module
    raise CheckpointError(
        f"{folder}: found {name} trained beside LoRA, expected tensors of {', '.join(_TRAINED_BESIDE.values())}\n"
        "  fix: merge it into its base with the tool that trained it, and use the merged model"
    )


def _owns(released: str, pieces: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """The model's own tensors behind a released name, a module's weight for its LoRA; none if called the same."""
    module, lora, _ = released.partition(".lora_")
    name = f"{module}.weight" if lora else module
    found = pieces.get(name, (name,))
    return () if found == (name,) else found


def _as_own(
    released: str, tensor: Tensor, pieces: Mapping[str, tuple[str, ...]], shapes: Mapping[str, Shape]
) -> dict[str, Tensor]:
    """Rename a tensor, and part it where the model holds several for one: MiniCPM-V-2's query, key and value."""
    owns = _owns(released, pieces)
    if not owns:
        return {released: tensor}
    _, lora, rest = released.partition(".lora_")
    if not lora:
        parts = tensor.flatten().split([math.prod(shapes[own]) for own in owns])
        return {own: part.reshape(shapes[own]) for own, part in zip(owns, parts, strict=True)}
    # B and DoRA's magnitudes have a row for each output; A works before the outputs part, so each piece has all of it.
    parts = [tensor] * len(owns) if rest.startswith("A") else tensor.chunk(len(owns))
    return {own.removesuffix(".weight") + lora + rest: part for own, part in zip(owns, parts, strict=True)}
