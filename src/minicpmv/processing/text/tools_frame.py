"""Holds how a checkpoint's own chat template announces tools, and writes a system turn so.

``released_tools`` reads it from the template.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from minicpmv.processing.text.turns import Segment, TextSegment, Turn

__all__ = ["ToolsFrame"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolsFrame:
    """The texts around tools in a system turn, from its first control token to its last line break."""

    alone: tuple[str, str]
    """Before and behind the tools where there is no instruction."""
    instructed: tuple[str, str, str]
    """Before, between and behind the tools and the instruction."""
    instruction_first: bool
    """Whether the instruction stands before the tools."""
    between: str
    """Between two tools."""
    in_python_words: bool = False
    """As in ``ToolCall``."""

    def write(self, tools: Sequence[str], instruction: Sequence[Segment]) -> list[Segment]:
        """Write the system turn.

        Args:
            tools: Each as JSON.
            instruction: What the system turn says besides, if anything.
        """
        listed: Segment = TextSegment(self.between.join(tools), "content")
        if not instruction:
            opening, closing = self.alone
            return [TextSegment(opening, "template"), listed, TextSegment(closing, "template")]
        parts = [list(instruction), [listed]] if self.instruction_first else [[listed], list(instruction)]
        opening, middle, closing = (TextSegment(text, "template") for text in self.instructed)
        return [opening, *parts[0], middle, *parts[1], closing]

    def adapt(self, turns: Sequence[Turn]) -> list[Turn]:
        """Return turns whose calls are written as the template writes them."""
        if not self.in_python_words:
            return list(turns)
        return [
            replace(turn, calls=tuple(replace(call, in_python_words=True) for call in turn.calls))
            if turn.calls
            else turn
            for turn in turns
        ]
