"""Calls a model for its last hidden states, as trainers with a head of their own do (TRL's DPOTrainer, GRPOTrainer)."""

from __future__ import annotations

from typing import Any

__all__ = ["Headless"]

_PARTS_OF = ("get_encoder", "get_decoder", "set_encoder", "set_decoder")
"""Methods that transformers asks of a base model that is a part of the model, which asks itself here."""


class Headless:
    """A model whose call ends before its head: text and pictures embedded, then the language model.

    Args:
        model: The model; everything but the call is its own.
    """

    def __init__(self, model: Any) -> None:
        self._model = model

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return what ``forward`` does with ``return_hidden``. The model's hooks are those of the call around it."""
        return type(self._model).forward(self._model, *args, **kwargs, return_hidden=True)

    def __getattr__(self, name: str) -> Any:
        if name in _PARTS_OF or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._model, name)
