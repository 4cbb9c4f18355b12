"""Serves one base model and its adapters, each under its own name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

from minicpmv.errors import UsageError
from minicpmv.inference.loading import LoadedModel, base_of_adapter
from minicpmv.models.adapters.attaching import attach_adapters
from minicpmv.models.adapters.base_identity import warn_of_base

__all__ = ["ServedModels", "compare_bases", "name_models", "serve_models"]


@dataclass(frozen=True, slots=True)
class ServedModels:
    """Holds the model and the names under which it answers."""

    loaded: LoadedModel
    """The base, inside PEFT's model if there are adapters."""
    adapters: Mapping[str, str | None]
    """PEFT's name of an adapter for each name in requests; None for the bare base."""

    @contextmanager
    def answering_as(self, name: str) -> Iterator[None]:
        """Activate the model of that name. Only one thread may enter at a time."""
        adapter, model = self.adapters[name], cast("Any", self.loaded.model)
        if adapter is not None:
            model.set_adapter(adapter, inference_mode=True)
            yield
        elif any(self.adapters.values()):
            with model.disable_adapter():
                yield
        else:
            yield


def name_models(model: str, given: list[str], served_name: str | None) -> tuple[str, dict[str, str | None]]:
    """Decide what is served under which name, before anything is loaded.

    Args:
        model: As for ``load_model``: the base, or an adapter, whose base is then served as well.
        given: Further adapters, each ``NAME=PATH``.
        served_name: Name of ``model``; by default its path or hub name.

    Returns:
        The base's directory or hub name, and the adapters' directories by name, None for the base.

    Raises:
        UsageError: An adapter has no name, is not an adapter, or two have the same name.
        CheckpointError: An adapter's base is missing.
    """
    base = base_of_adapter(model)
    paths: dict[str, str | None] = {served_name or model: model if base is not None else None}
    if base is not None:
        paths[base] = None
    for text in given:
        name, equals, path = text.partition("=")
        if not (name and equals and path):
            raise UsageError(f"--adapter: found {text!r}, expected NAME=PATH\n  fix: write --adapter cats=output/lora")
        if name in paths:
            raise UsageError(f"--adapter: found the name {name!r} twice, expected different ones\n  fix: rename one")
        if base_of_adapter(path) is None:
            raise UsageError(
                f"--adapter: found no adapter at {path!r}, expected a directory with adapter_config.json\n"
                "  fix: name the directory that a LoRA run has saved"
            )
        paths[name] = path
    return base or model, paths


def compare_bases(base: str, paths: Mapping[str, str | None], *, allow_other: bool) -> None:
    """Make sure, before the base is loaded, that every adapter was trained on it; only warn if others are allowed.

    Args:
        base: The base's directory or hub name.
        paths: As ``name_models`` returned them.
        allow_other: Whether adapters of another base are allowed.

    Raises:
        CheckpointError: An adapter belongs to another base.
    """
    for path in filter(None, paths.values()):
        warn_of_base(path, base, allow_other=allow_other)


def serve_models(loaded: LoadedModel, paths: Mapping[str, str | None]) -> ServedModels:
    """Attach adapters to a base, which ``compare_bases`` has checked.

    Args:
        loaded: The base, without an adapter.
        paths: As ``name_models`` returned them.

    Raises:
        CheckpointError: An adapter does not fit the base.
    """
    # Our own names, because PEFT's become module names, which may not contain a dot.
    adapters = {name: None if path is None else f"adapter{number}" for number, (name, path) in enumerate(paths.items())}
    directories = {adapter: path for adapter, path in zip(adapters.values(), paths.values(), strict=True) if path}
    if directories:
        device = loaded.device
        wrapped: Any = attach_adapters(loaded.model, cast("dict[str, str]", directories))
        loaded = replace(loaded, model=wrapped.to(device).eval())
    return ServedModels(loaded, adapters)
