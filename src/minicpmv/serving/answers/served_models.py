"""One base model in memory and the adapters on it, each answering under a name of its own."""

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
    """The model and what it answers as."""

    loaded: LoadedModel
    """The base, in PEFT's model if there are adapters."""
    adapters: Mapping[str, str | None]
    """PEFT's name of an adapter by the name that requests use; None for the base alone."""

    @contextmanager
    def answering_as(self, name: str) -> Iterator[None]:
        """Let the model be the one of that name. Only one thread may be in here."""
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
    """Tell what is served under which name, before anything is loaded.

    Args:
        model: As for ``load_model``: the base, or an adapter, whose base is then served as well.
        given: More adapters, each ``NAME=PATH``.
        served_name: Name of ``model``; the path or hub name itself if not given.

    Returns:
        Where the base is, and the adapters' directories by name, None for the base.

    Raises:
        UsageError: An adapter has no name, is none, or two have the same.
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
    """Make sure, before the base is loaded, that every adapter was trained on it; say so where another is allowed.

    Args:
        base: Its directory or hub name.
        paths: As ``name_models`` returned them.
        allow_other: Whether an adapter may have been trained on another base.

    Raises:
        CheckpointError: An adapter belongs to another base.
    """
    for path in filter(None, paths.values()):
        warn_of_base(path, base, allow_other=allow_other)


def serve_models(loaded: LoadedModel, paths: Mapping[str, str | None]) -> ServedModels:
    """Put adapters on a base. ``compare_bases`` has looked whether it is theirs.

    Args:
        loaded: The base, without an adapter.
        paths: As ``name_models`` returned them.

    Raises:
        CheckpointError: An adapter does not fit the base.
    """
    # Names of ours, because PEFT's become names of modules, which allow no dot.
    adapters = {name: None if path is None else f"adapter{number}" for number, (name, path) in enumerate(paths.items())}
    directories = {adapter: path for adapter, path in zip(adapters.values(), paths.values(), strict=True) if path}
    if directories:
        device = loaded.device
        wrapped: Any = attach_adapters(loaded.model, cast("dict[str, str]", directories))
        loaded = replace(loaded, model=wrapped.to(device).eval())
    return ServedModels(loaded, adapters)
