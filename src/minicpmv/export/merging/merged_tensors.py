"""Computes the tensors of a base model with an adapter merged into them, one at a time, in float32.

It contains no formula of LoRA. PEFT attaches the adapter to a module that is alone in an otherwise empty model, and
merges it, so every variant that PEFT supports is merged as PEFT does it, in the memory of one module.
"""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftConfig, get_peft_model, set_peft_model_state_dict
from torch import Tensor, nn

from minicpmv.errors import CheckpointError
from minicpmv.models.adapters.attaching import fitting_adapter
from minicpmv.models.adapters.foreign_adapters import ADAPTER_WEIGHTS
from minicpmv.models.checkpoints.key_names import cut_expert, is_expert
from minicpmv.models.checkpoints.own_tensors import OwnTensors
from minicpmv.models.checkpoints.weight_files import WeightReader
from minicpmv.models.finiteness import is_finite
from minicpmv.models.skeleton import build_skeleton

__all__ = ["MergedTensors", "open_merged"]

_PREFIX = "base_model.model."


@contextmanager
def open_merged(base: Path, adapter: Path, *, dtype: torch.dtype | None) -> Iterator[MergedTensors]:
    """Open a base and an adapter, to read the merged tensors.

    Args:
        base: The base model's directory.
        adapter: The adapter's directory.
        dtype: Precision of the tensors; by default as the base stores each.

    Raises:
        CheckpointError: One of them is broken, or they do not belong together.
    """
    with fitting_adapter(lambda: build_skeleton(base), adapter) as folder:
        yield MergedTensors(base, folder, shown=adapter, dtype=dtype)


class MergedTensors:
    """The tensors of a base with an adapter merged into them, by the names in the base's files.

    Args:
        base: The base model's directory.
        adapter: A directory with a fitting adapter under the model's own names.
        shown: The adapter's directory as messages name it.
        dtype: As for :func:`open_merged`.
    """

    def __init__(self, base: Path, adapter: Path, *, shown: Path, dtype: torch.dtype | None) -> None:
        skeleton = build_skeleton(base)
        self._base_path, self._adapter_path = base, shown
        self._base = OwnTensors(base, skeleton)
        self._adapter = WeightReader([adapter / name for name in ADAPTER_WEIGHTS if (adapter / name).is_file()][:1])
        self._config = _alone(PeftConfig.from_pretrained(str(adapter)))
        ends = tuple(f".{name}" for name in self._config.target_parameters or ())
        self._bare = {name for name, _ in skeleton.named_parameters() if f".{name}".endswith(ends)}
        """Names of tensors with LoRA that are no module of their own."""
        self._modules = dict(skeleton.named_modules())
        self._lora: dict[str, list[str]] = {}
        self._last: tuple[str, dict[str, Tensor]] = "", {}
        self._full: dict[str, str] = {}
        for name in self._adapter.outlines:
            bare = name.removeprefix(_PREFIX)
            if ".lora_" in bare:
                # PEFT wraps a module twice where two of its tensors have LoRA.
                self._lora.setdefault(bare.partition(".lora_")[0].removesuffix(".base_layer"), []).append(name)
            # PEFT saves biases of replaced modules under two more names: those of the unused base, and a duplicate.
            elif ".original_module." not in bare and ".modules_to_save." not in bare:
                self._full[bare.replace(".base_layer.", ".")] = name
        self._refuse_tied({name for pair in cast("Any", skeleton).all_tied_weights_keys.items() for name in pair})
        self.outlines = {
            name: self._outline(name, outline, dtype) for name, outline in self._base.files.outlines.items()
        }
        """Name -> a tensor of the shape and precision that :meth:`read` returns, without values."""

    @property
    def carried(self) -> list[str]:
        """Names of the tensors that are copied as they are, because the release's model does not compute them here."""
        return [name for name in self.outlines if name not in self._base.pieces]

    @property
    def num_lora_modules(self) -> int:
        """Number of modules into which LoRA is merged."""
        return len(self._lora)

    @property
    def num_replaced(self) -> int:
        """Number of tensors that the adapter replaces."""
        return len(self._full)

    def is_touched(self, name: str) -> bool:
        """Return whether the adapter changes a tensor."""
        return any(self._is_touched(own) for own in self._base.pieces.get(name, ()))

    @torch.no_grad()
    def read(self, name: str) -> Tensor:
        """Compute one tensor in float32, rounded once. Tensors without a change are the base's, bit for bit.

        Returns:
            The tensor, in the shape that it has in the base's files.

        Raises:
            CheckpointError: The result is not finite.
        """
        if name not in self._base.pieces:  # carried: bytes, whatever they mean
            return self._base.files.read(name)
        if not self.is_touched(name):
            return self._rounded(name, self._base.files.read(name), self._base_path, "download or copy the base again")
        merged = [self._merged(own) for own in self._base.pieces[name]]
        if is_expert(name):
            merged = [cut_expert(name, merged[0]).clone()]
        joined = merged[0] if len(merged) == 1 else torch.cat([piece.flatten() for piece in merged])
        fix = "copy the adapter again, or merge an earlier checkpoint of the run"
        return self._rounded(name, joined.reshape(self.outlines[name].shape), self._adapter_path, fix)

    def _rounded(self, name: str, tensor: Tensor, source: Path, fix: str) -> Tensor:
        if not is_finite(tensor):
            raise CheckpointError(
                f"{source}: found values in {name} that are not finite when merged, expected finite ones\n  fix: {fix}"
            )
        dtype = self.outlines[name].dtype
        rounded = tensor.to(dtype)
        if not is_finite(rounded):
            raise CheckpointError(
                f"{source}: found values in {name} beyond the range of {dtype} when merged, expected a precision "
                "that holds them\n  fix: --dtype bfloat16 or float32"
            )
        return rounded

    def _is_touched(self, own: str) -> bool:
        module, _, attribute = own.rpartition(".")
        if own in self._full or own in self._bare:
            return True
        return module in self._lora and (attribute == "weight" or self._config.lora_bias)

    def _merged(self, own: str) -> Tensor:
        """Compute one of the model's own tensors after the merge, in float32."""
        module, _, attribute = own.rpartition(".")
        if module in self._lora and self._is_touched(own):
            return self._merge_lora(module)[attribute]
        return self._without_lora(own)

    def _without_lora(self, own: str) -> Tensor:
        """Read one of the model's own tensors before LoRA, in float32; the adapter's replace the base's."""
        if own in self._full:
            return self._adapter.read(self._full[own]).to(torch.float32, copy=True)  # PEFT merges in place
        return self._base.read(own)

    def _merge_lora(self, name: str) -> dict[str, Tensor]:
        """Let PEFT merge one module, and return its tensors."""
        if self._last[0] == name:  # all experts of a layer are read one by one
            return self._last[1]
        module = copy.copy(self._modules[name])
        module._parameters = dict(module._parameters)  # the skeleton's own modules are left unchanged
        tensors = {attribute: self._without_lora(f"{name}.{attribute}") for attribute in module.state_dict()}
        module.load_state_dict(tensors, assign=True)
        with warnings.catch_warnings():
            # The rank patterns of other modules match nothing here; they all match in the whole model.
            warnings.filterwarnings("ignore", message=r"The following \w+_pattern keys did not match")
            warnings.filterwarnings("ignore", message=r"target_\w+=.* were set but no \w+ was matched")
            wrapped = get_peft_model(cast("Any", _put_alone(name, module)), self._config)
        found = set_peft_model_state_dict(wrapped, {key: self._adapter.read(key) for key in self._lora[name]})
        assert not found.unexpected_keys, found.unexpected_keys  # the adapter was compared with the whole model
        merged = cast("Any", wrapped).merge_and_unload()
        state = merged.get_submodule(name).state_dict()
        self._last = name, {attribute: tensor.detach() for attribute, tensor in state.items()}
        return self._last[1]

    def _outline(self, name: str, outline: Tensor, dtype: torch.dtype | None) -> Tensor:
        is_cast = dtype is not None and outline.is_floating_point() and name in self._base.pieces
        return outline.to(dtype) if is_cast else outline

    def _refuse_tied(self, tied: set[str]) -> None:
        """Refuse an adapter that changes one of two tied weights, since PEFT trains only one of them."""
        holders = {name.rpartition(".")[0] for name in self._bare}
        changed = {*self._full, *self._bare, *(f"{module}.weight" for module in self._lora.keys() - holders)}
        apart = sorted(changed & tied | changed - self._base.homes.keys())
        if apart:
            raise CheckpointError(
                f"{self._adapter_path}: found {apart[0]} trained apart from the weight that it is tied to in the base, "
                "expected an untied one: a model in the base's layout stores one tensor for both\n"
                "  fix: use the adapter unmerged"
            )


def _alone(config: PeftConfig) -> LoraConfig:
    """Return the adapter's config for a model of one module, whose matrices are about to be read."""
    assert isinstance(config, LoraConfig)
    return dataclasses.replace(
        config,
        base_model_name_or_path=None,
        task_type=None,
        modules_to_save=None,
        bias="none",
        init_lora_weights=True,
        inference_mode=True,
    )


def _put_alone(name: str, module: nn.Module) -> nn.Module:
    """Make a model of one module under its full name, which the patterns of the adapter's config match."""
    model = nn.Module()
    inner = model
    *path, last = name.split(".")
    for part in path:
        outer, inner = inner, nn.Module()
        outer.add_module(part, inner)
    inner.add_module(last, module)
    return model
