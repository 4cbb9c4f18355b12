"""Says what a conversation is before it becomes tokens: turns of text and pictures going in, segments coming out.

Nothing is decided here; ``dialects`` write turns as segments, ``tokens.encode`` makes ids of segments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from minicpmv.processing.text.tool_calls import ToolCall, spell_calls

__all__ = [
    "FilmRef",
    "ImageRef",
    "ImageSegment",
    "LeftOut",
    "Part",
    "Role",
    "Segment",
    "TextKind",
    "TextSegment",
    "Turn",
    "announce_tools",
]

Role = Literal["system", "user", "assistant", "tool"]
TextKind = Literal["template", "content", "answer", "answer_format", "end", "unwritten_end"]


@dataclass(frozen=True, slots=True)
class ImageRef:
    """Stands in a turn's content where an image goes."""

    index: int
    """Position in the conversation's list of images, from 0."""
    film: int | None = None
    """Number of the film that it is a frame of, from 0 in the conversation; None for a picture. The frames of one film
    are side by side in one turn."""


@dataclass(frozen=True, slots=True)
class FilmRef:
    """Stands in a turn's content where a film goes; ``frames`` puts its frames there."""

    index: int
    """Position in the conversation's list of films, from 0."""


Part = str | ImageRef | FilmRef
"""What the content of a turn is made of."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side says."""

    role: Role
    content: tuple[Part, ...]
    """Parts in order. They are joined by one newline each, as the released ``chat()`` does, so a part holds no newline
    on the image's account: ``(ImageRef(0), "What is it?")`` reads ``<image>\\nWhat is it?``. Only frames of one film
    have nothing between them in releases with a token for frames (4.6 and later)."""
    weight: float = 1.0
    """How much an assistant turn counts in the training loss, finite and not below 0; with 0 it is only read, as a
    question is. Other turns keep 1. It counts in training only."""
    calls: tuple[ToolCall, ...] = ()
    """Tools that an assistant turn calls, behind its text (4.6 and later). A turn of role ``tool`` is a result."""
    tools: tuple[str, ...] = ()
    """Functions that a system turn announces, each as JSON; its content may then be empty."""

    @property
    def text(self) -> str:
        """What is written in it, without its images."""
        return "\n".join(part for part in self.content if isinstance(part, str))

    @property
    def spoken(self) -> str:
        """What is written in it with its calls: all that an answer says."""
        return spell_calls(self.text, self.calls)


def announce_tools(tools: tuple[str, ...], turns: Sequence[Turn]) -> list[Turn]:
    """Put tools, each as JSON, into the system turn of a conversation, which is added where there is none."""
    if turns and turns[0].role == "system":
        return [replace(turns[0], tools=tools), *turns[1:]]
    return [Turn("system", (), tools=tools), *turns]


@dataclass(frozen=True, slots=True)
class TextSegment:
    """A stretch of text."""

    text: str
    kind: TextKind
    """``template``: ours, control tokens in it are meant. ``content``: a user's, control-token text in it stays text.
    ``answer``: as content, and trained. ``answer_format``: ours and trained, within an answer; it and the stretches of
    the answer beside it are encoded in one. ``end``: the one token that ends an answer, trained. ``unwritten_end``: as
    end, but the token itself is not part of the text, only the prediction of it is trained (2.0, between turns)."""
    weight: float = 1.0
    """How much the tokens of ``answer``, ``answer_format``, ``end`` and ``unwritten_end`` count in the loss: their
    turn's weight."""


@dataclass(frozen=True, slots=True)
class ImageSegment:
    """The block of tokens that one image becomes."""

    index: int
    """Position in the conversation's list of images, from 0."""
    film: int | None = None
    """As in ``ImageRef``."""


Segment = TextSegment | ImageSegment


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Text of a turn that the dialect does not write, so that it would not be trained."""

    turn: int
    """Position in the conversation, from 0."""
    found: str
    expected: str
    fix: str
