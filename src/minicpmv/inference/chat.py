"""Holds a conversation with one model: questions and pictures in, answers out as they are written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minicpmv.inference.generation import GenerationSettings, answer
from minicpmv.inference.loading import LoadedModel
from minicpmv.machine.shortage import naming_shortage
from minicpmv.wording import counted

__all__ = ["Conversation", "Exchange"]

_SMALLER = (
    "start over (/reset in a dialogue), show fewer pictures, or have them cut into fewer tiles (--max-slice-nums 1 is "
    "the least)"
)


@dataclass(frozen=True, slots=True)
class Exchange:
    """A question and its answer."""

    question: str
    images: tuple[str, ...]
    """Image files shown before the question."""
    answer: str
    """The answer, with its thoughts, which begin with ``<think>``."""
    was_stopped: bool = False
    """Whether the caller ended the answer before the model did."""


class Conversation:
    """A dialogue with a model, which remembers its questions, answers and pictures.

    Args:
        loaded: The model that answers.
        settings: How tokens are chosen.
        system: An instruction before the first question (2.5 and later).
    """

    def __init__(
        self, loaded: LoadedModel, *, settings: GenerationSettings | None = None, system: str | None = None
    ) -> None:
        self.loaded = loaded
        self.settings = settings or GenerationSettings()
        """Settings, which may be changed between two questions."""
        self.system = system
        """The instruction, which may be changed, too; the model then reads the whole dialogue under the new one."""
        self._exchanges: list[Exchange] = []

    @property
    def exchanges(self) -> tuple[Exchange, ...]:
        """The questions and answers so far."""
        return tuple(self._exchanges)

    def clear(self) -> None:
        """Forget everything but the instruction."""
        self._exchanges = []

    def undo(self) -> Exchange | None:
        """Forget the last question and its answer, and return them; None if there is none."""
        return self._exchanges.pop() if self._exchanges else None

    def ask(
        self,
        question: str,
        images: Sequence[str | Path] = (),
        *,
        on_text: Callable[[str], None] | None = None,
        is_over: Callable[[], bool] | None = None,
        seed: int | None = None,
    ) -> str:
        """Ask the next question; images come before its text. A question that fails is not remembered.

        The returned answer includes its thoughts; the model's format leaves them out when the next question is asked.
        An answer that ``is_over`` ends is remembered as far as it was written.

        Args:
            question: Text of the question.
            images: Image files.
            on_text: As for ``generation.answer``.
            is_over: As for ``generation.answer``.
            seed: As for ``generation.answer``.

        Raises:
            UsageError: The model's format does not allow it, or the conversation has become too long.
            ImageError: A picture cannot be read.
            MemoryShortageError: Memory ran out.
        """
        was_stopped = False

        def stops_here() -> bool:
            nonlocal was_stopped
            was_stopped = is_over is not None and is_over()
            return was_stopped

        files = tuple(map(str, images))
        messages = [*self._messages(), _message("user", question, files)]
        with naming_shortage("memory", lambda: _describe(messages), fix=_SMALLER):
            said = answer(self.loaded, messages, settings=self.settings, on_text=on_text, is_over=stops_here, seed=seed)
        self._exchanges.append(Exchange(question, files, said, was_stopped))
        return said

    def _messages(self) -> list[dict[str, Any]]:
        messages = [] if self.system is None else [_message("system", self.system)]
        for exchange in self._exchanges:
            messages.append(_message("user", exchange.question, exchange.images))
            messages.append(_message("assistant", exchange.answer))
        return messages


def _describe(messages: Sequence[Mapping[str, Any]]) -> str:
    num_images = sum(piece["type"] == "image" for message in messages for piece in message["content"])
    return f"this conversation, of {counted(len(messages), 'message')} with {counted(num_images, 'picture')}"


def _message(role: str, text: str, images: Sequence[str] = ()) -> dict[str, Any]:
    pictures = [{"type": "image", "image": image} for image in images]
    return {"role": role, "content": [*pictures, {"type": "text", "text": text}]}
