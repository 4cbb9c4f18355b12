"""Recognises records of other tools that have no conversation, and words the way to ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

__all__ = ["describe_foreign"]

_QUESTION = "write a question and the text as its answer: the model learns to answer, so it must be asked something"
_NAMES_OF_CAPTIONS = ("caption", "captions", "text", "description", "alt_text")


def describe_foreign(fields: Mapping[str, object]) -> tuple[str, str] | None:
    """Return the kind of a record in other tools and the fix, or None if unknown.

    Args:
        fields: Fields of the record without its messages, none of them null.
    """
    talk = _first_of(fields.get("conversation"))
    if {"input", "output"} <= talk.keys():
        return (
            "XTuner's 'conversation' of 'input' and 'output'",
            "write each pair as two messages under 'conversations', of the user and the assistant",
        )
    if "parts" in _first_of(fields.get("contents")):
        return (
            "Gemini's 'contents' of 'parts'",
            "write each as a message under 'messages': the role 'model' is 'assistant', and its parts have a 'type'",
        )
    if {"user", "assistant"} <= _first_of(fields.get("texts")).keys():
        return (
            "The Cauldron's 'texts' of 'user' and 'assistant'",
            "write each pair as two messages under 'conversations'",
        )
    if {"chosen", "rejected"} <= fields.keys():
        return (
            "'chosen' and 'rejected' without one question that both answer",
            "begin both with the same turns; or write the question and the better answer under 'messages', and the "
            "worse answer alone under 'rejected'",
        )
    captions = [key for key in _NAMES_OF_CAPTIONS if key in fields]
    if captions and (fields.get("image") or fields.get("images")):
        return f"an image with the text {captions[0]!r}, and no question", _QUESTION
    return None


def _first_of(value: object) -> dict[str, object]:
    first = next(iter(cast("list[object]", value)), None) if isinstance(value, list) else None
    return cast("dict[str, object]", first) if isinstance(first, dict) else {}
