"""How the made-up release writes a conversation: like a script, one line for each turn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from minicpmv.processing.text.chat import Dialect
from minicpmv.processing.text.turns import FilmRef, ImageRef, ImageSegment, Segment, TextSegment, Turn

__all__ = ["SCRIPT"]

_ASKS, _ANSWERS, _DONE = "<|asks|>", "<|answers|>", "<|done|>"


def _write(turns: Sequence[Turn], add_generation_prompt: bool) -> Iterator[Segment]:
    for turn in turns:
        if turn.role == "assistant":
            yield TextSegment(_ANSWERS, "template")
            yield TextSegment(turn.text, "answer", turn.weight)
            yield TextSegment(_DONE, "end", turn.weight)
            continue
        yield TextSegment(_ASKS, "template")
        for part in turn.content:
            assert not isinstance(part, FilmRef), "the release sees pictures only"
            yield ImageSegment(part.index) if isinstance(part, ImageRef) else TextSegment(part, "content")
    if add_generation_prompt:
        yield TextSegment(_ANSWERS, "template")


SCRIPT = Dialect(write=_write, control_tokens=(_ASKS, _ANSWERS, _DONE), roles=("user", "assistant"))
