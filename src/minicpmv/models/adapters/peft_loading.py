"""Lets PEFT's own ``from_pretrained`` say when an adapter is put on another base than the one it was trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType
from typing import Any

import wrapt

from minicpmv.models.adapters.base_identity import BASE_FILE, warn_of_other_base

__all__ = ["already_compared", "watch_peft"]

_is_compared: ContextVar[bool] = ContextVar("_is_compared", default=False)


def watch_peft(peft_model: ModuleType) -> None:
    """Wrap ``PeftModel.from_pretrained``, through which ``AutoPeftModel`` goes as well: PEFT has no hook there.

    Args:
        peft_model: The module ``peft.peft_model``.
    """
    if not isinstance(peft_model.PeftModel.from_pretrained, wrapt.BoundFunctionWrapper):
        wrapt.wrap_function_wrapper(peft_model, "PeftModel.from_pretrained", _from_pretrained)


@contextmanager
def already_compared() -> Iterator[None]:
    """Leave the comparison out, inside: whoever loads has made it."""
    token = _is_compared.set(True)
    try:
        yield
    finally:
        _is_compared.reset(token)


def _from_pretrained(wrapped: Callable[..., Any], _class: type, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    model: Any = kwargs.get("model", args[0] if args else None)
    adapter = kwargs.get("model_id", args[1] if len(args) > 1 else "")
    is_ours = hasattr(getattr(model, "config", None), "minicpmv_version") and getattr(model, "name_or_path", "")
    if is_ours and not _is_compared.get() and (Path(adapter) / BASE_FILE).is_file():
        warn_of_other_base(adapter, model.name_or_path)
    return wrapped(*args, **kwargs)
