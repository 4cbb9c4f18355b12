"""From messages to answers: one at a time as it is written, or many in a batch.

Prompts come from the processor, so they are the ones that were trained. Greedy unless sampling is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from minicpmv.inference.loading import LoadedModel
from minicpmv.models.answers import (
    THINK_OPENING,
    AnswerStreamer,
    decode_answer,
    generate_answers,
    released_options,
    thinking_setting,
)
from minicpmv.models.versions import Version

__all__ = ["GenerationSettings", "answer", "answer_batch", "draw_answers"]

Messages = Sequence[dict[str, Any]]
"""A conversation in transformers' multimodal format, the last message the user's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationSettings:
    """How answers are chosen."""

    max_new_tokens: int = 1024
    """Longest answer, thoughts included."""
    sample: bool = False
    """Draw tokens at random instead of taking the likeliest; the next three settings then apply, and None means what
    the released ``chat()`` takes for the version."""
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    """Above 1 makes a token that was answered already less likely. None: as the released ``chat()`` when sampling, else
    1."""
    max_slice_nums: int | None = None
    """Most tiles cut from one picture; the checkpoint's own number if not given."""
    enable_thinking: bool = False
    """Let the model think before it answers; 4.5 only."""

    def options(self, version: Version) -> dict[str, Any]:
        """The same, in the words of transformers' ``generate``."""
        chosen: dict[str, Any] = {"max_new_tokens": self.max_new_tokens}
        names = ["repetition_penalty"]
        if self.sample:
            chosen |= released_options(version, sampling=True, enable_thinking=self.enable_thinking)
            names += ["temperature", "top_p", "top_k"]
        return chosen | {name: getattr(self, name) for name in names if getattr(self, name) is not None}


_GREEDY = GenerationSettings()


class _CallingStreamer(AnswerStreamer):
    """Hands each piece to a function instead of a queue."""

    def __init__(self, loaded: LoadedModel, on_text: Callable[[str], None]) -> None:
        super().__init__(loaded.processor.tokenizer, loaded.end_token_ids())
        self._on_text = on_text

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        if text:
            self._on_text(text)


def answer(
    loaded: LoadedModel,
    messages: Messages,
    *,
    settings: GenerationSettings = _GREEDY,
    on_text: Callable[[str], None] | None = None,
) -> str:
    """Answer one conversation.

    Args:
        loaded: Who answers.
        messages: The conversation so far.
        settings: How tokens are chosen.
        on_text: Called with each piece of the answer as soon as it is written.

    Returns:
        The whole answer, without white space around it. With thinking it begins with ``<think>``, as the released
        ``chat()``'s does; ``processing.thinking.split_thinking`` tells thoughts from what was said.

    Raises:
        UsageError: A message is not understood, or thinking is asked of a version that cannot.
        ImageError: A picture cannot be read.
    """
    return _generate(loaded, [messages], settings, on_text)[0]


def answer_batch(
    loaded: LoadedModel, conversations: Sequence[Messages], *, settings: GenerationSettings = _GREEDY
) -> list[str]:
    """Answer several conversations in one batch; as :func:`answer` otherwise."""
    return _generate(loaded, conversations, settings, None)


def _generate(
    loaded: LoadedModel,
    conversations: Sequence[Messages],
    settings: GenerationSettings,
    on_text: Callable[[str], None] | None,
) -> list[str]:
    processor = loaded.processor
    inputs = processor.apply_chat_template(
        [list(messages) for messages in conversations],
        max_slice_nums=settings.max_slice_nums,
        enable_thinking=thinking_setting(processor.version, settings.enable_thinking),
    ).to(loaded.device)
    return draw_answers(loaded, inputs, settings=settings, on_text=on_text)


def draw_answers(
    loaded: LoadedModel,
    inputs: Mapping[str, Any],
    *,
    settings: GenerationSettings,
    on_text: Callable[[str], None] | None = None,
    seeds: Sequence[int] | None = None,
) -> list[str]:
    """Answer prompts that are encoded already; as :func:`answer` otherwise.

    Args:
        loaded: Who answers.
        inputs: The model's, padded on the left, on its device.
        settings: How tokens are chosen; slices and thinking are in the prompts.
        on_text: As for :func:`answer`; with one prompt only.
        seeds: As for ``generate_answers``.
    """
    version, tokenizer = loaded.processor.version, loaded.processor.tokenizer
    opening = THINK_OPENING if thinking_setting(version, settings.enable_thinking) else ""
    if on_text is not None and opening:
        on_text(opening)
    ends = loaded.end_token_ids()
    rows = generate_answers(
        loaded.model,
        inputs,
        options=settings.options(version),
        end_ids=ends,
        streamer=None if on_text is None else _CallingStreamer(loaded, on_text),
        seeds=seeds,
    )
    return [opening + decode_answer(tokenizer, row, ends) for row in rows]
