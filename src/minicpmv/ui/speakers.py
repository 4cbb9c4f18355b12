"""Loads the models that answer on the page: one, or two that share their common weights."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from minicpmv.errors import UsageError
from minicpmv.inference.loading import LoadedModel, base_of_adapter, compare_own_base
from minicpmv.serving.answers.served_models import compare_bases, serve_models

__all__ = ["OWN_BASE", "Speaker", "load_speakers"]

OWN_BASE = ""
"""Default of the compared model: the base that the adapter was trained on."""


@dataclass(frozen=True, slots=True)
class Speaker:
    """Holds a model with its own place on the page."""

    name: str
    """Its directory or name."""
    loaded: LoadedModel
    speaking: Callable[[], AbstractContextManager[None]]
    """Context in which ``loaded`` answers as this speaker."""
    role: str = ""
    """Its part in the comparison of an adapter with its base: tuned or base."""


def load_speakers(
    model: str, compare: str | None, *, load: Callable[[str], LoadedModel], allow_other_base: bool = False
) -> list[Speaker]:
    """Load MODEL and the model that it is compared with.

    Args:
        model: As for ``load_model``.
        compare: Another model, ``OWN_BASE``, or None for no comparison.
        load: Opens a model by its directory or name.
        allow_other_base: As for ``compare_bases``, if both have one base.

    Raises:
        UsageError: There are not two different models to compare.
        CheckpointError: One of them cannot be loaded.
    """
    if compare is None:
        return [Speaker(_shown(model), load(model), nullcontext)]
    bases = {path: base_of_adapter(path) for path in (model, compare) if path != OWN_BASE}
    if compare == OWN_BASE:
        own = bases[model]
        if own is None:
            raise UsageError(
                f"--compare: found no model after it, and {model!r}, which is not an adapter with a base, "
                "expected two models\n  fix: name the other one: --compare DIRECTORY"
            )
        compare, bases[own] = own, None
    paths = (model, compare)
    if _same(model, compare):
        raise UsageError(f"--compare: found {compare!r} twice, expected another model\n  fix: name another one")
    model_base, compare_base = (bases[path] or path for path in paths)
    if not _same(model_base, compare_base):
        for path in paths:
            compare_own_base(path, allow_other=allow_other_base)
        return [Speaker(_shown(path), load(path), nullcontext) for path in paths]
    adapters = {path: path if bases[path] else None for path in paths}
    compare_bases(model_base, adapters, allow_other=allow_other_base)
    served = serve_models(load(model_base), adapters)
    # Two answers are written at the same time, which PEFT's generate() forbids, but not the model inside: it puts
    # a method of its own into the model while one of them runs.
    inner = replace(served.loaded, model=cast("Any", served.loaded.model).get_base_model())
    is_before_and_after = None in adapters.values()
    return [
        Speaker(
            _shown(path),
            replace(inner, path=path),
            partial(served.answering_as, path),
            role=("tuned" if adapters[path] else "base") if is_before_and_after else "",
        )
        for path in paths
    ]


def _same(one: str, other: str) -> bool:
    return one == other or os.path.realpath(one) == os.path.realpath(other)


def _shown(path: str) -> str:
    """Shorten a directory to its relative path, if it is below the current one."""
    here, there = Path.cwd(), Path(path).absolute()
    return str(there.relative_to(here)) if there.is_dir() and there.is_relative_to(here) else path
