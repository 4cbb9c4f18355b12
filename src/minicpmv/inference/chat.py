"""A conversation at the terminal: questions and pictures in, answers out as they are written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from minicpmv.inference.generation import GenerationSettings, answer
from minicpmv.inference.loading import LoadedModel

__all__ = ["Conversation"]


class Conversation:
    """One dialogue with a model, which remembers what was said and shown.

    Args:
        loaded: Who answers.
        settings: How tokens are chosen.
        system: An instruction that stands before the first question (2.5 and later).
    """

    def __init__(
        self, loaded: LoadedModel, *, settings: GenerationSettings | None = None, system: str | None = None
    ) -> None:
        self._loaded = loaded
        self._settings = settings or GenerationSettings()
        self._system = system
        self._messages: list[dict[str, Any]] = []
        self.clear()

    def clear(self) -> None:
        """Forget everything but the instruction."""
        self._messages = []
        if self._system is not None:
            self._messages.append({"role": "system", "content": [{"type": "text", "text": self._system}]})

    def ask(
        self,
        question: str,
        images: Sequence[str | Path] = (),
        *,
        on_text: Callable[[str], None] | None = None,
    ) -> str:
        """Ask the next question; images stand before its text. A question that fails is not remembered.

        Thoughts are part of what is returned; the model's format shows it none of them when the next question is asked.

        Raises:
            UsageError: The model's format does not allow it.
            ImageError: A picture cannot be read.
        """
        content = [{"type": "image", "image": str(image)} for image in images]
        turn = {"role": "user", "content": [*content, {"type": "text", "text": question}]}
        said = answer(self._loaded, [*self._messages, turn], settings=self._settings, on_text=on_text)
        self._messages += [turn, {"role": "assistant", "content": [{"type": "text", "text": said}]}]
        return said
