"""From messages to answers: one at a time as it is written, or many in a batch.

Prompts come from the processor, so they are the ones that were trained. Greedy unless sampling is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from transformers import StoppingCriteriaList

from minicpmv.errors import UsageError
from minicpmv.inference.loading import LoadedModel
from minicpmv.models.answering.answers import (
    THINK_OPENING,
    AnswerStreamer,
    StopWhen,
    decode_answer,
    generate_answers,
    released_options,
    thinking_setting,
)
from minicpmv.releases.table import Version

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
    is_over: Callable[[], bool] | None = None,
    seed: int | None = None,
) -> str:
    """Answer one conversation.

    Args:
        loaded: Who answers.
        messages: The conversation so far.
        settings: How tokens are chosen. The answer ends in any case where the model's positions do.
        on_text: Called with each piece of the answer as soon as it is written.
        is_over: Called after each token; the answer ends where it returns True.
        seed: Where tokens are drawn at random, of this answer alone; torch's own random numbers if not given.

    Returns:
        The whole answer, without white space around it. With thinking it begins with ``<think>``, as the released
        ``chat()``'s does; ``processing.thinking.split_thinking`` tells thoughts from what was said.

    Raises:
        UsageError: A message is not understood, thinking is asked of a version that cannot, or the conversation is
            longer than the model was made for.
        ImageError: A picture cannot be read.
        NotFiniteError: The model's logits are not finite.
    """
    inputs = _encode(loaded, [messages], settings)
    length = inputs["input_ids"].shape[1]
    positions = cast("int", loaded.model.config.text_config.max_position_embeddings)  # pyright: ignore[reportAttributeAccessIssue]
    if length >= positions:
        raise UsageError(
            f"conversation: found {length} tokens with its pictures, expected fewer than {positions}, for which the "
            "model was made\n  fix: start anew, or show fewer or smaller pictures"
        )
    settings = replace(settings, max_new_tokens=min(settings.max_new_tokens, positions - length))
    seeds = None if seed is None else [seed]
    return draw_answers(loaded, inputs, settings=settings, on_text=on_text, is_over=is_over, seeds=seeds)[0]


def answer_batch(
    loaded: LoadedModel, conversations: Sequence[Messages], *, settings: GenerationSettings = _GREEDY
) -> list[str]:
    """Answer several conversations in one batch; as :func:`answer` otherwise, but whatever their length."""
    return draw_answers(loaded, _encode(loaded, conversations, settings), settings=settings)


def _encode(loaded: LoadedModel, conversations: Sequence[Messages], settings: GenerationSettings) -> Mapping[str, Any]:
    processor = loaded.processor
    return processor.apply_chat_template(
        [list(messages) for messages in conversations],
        max_slice_nums=settings.max_slice_nums,
        enable_thinking=thinking_setting(processor.version, settings.enable_thinking),
    ).to(loaded.device)


def draw_answers(
    loaded: LoadedModel,
    inputs: Mapping[str, Any],
    *,
    settings: GenerationSettings,
    on_text: Callable[[str], None] | None = None,
    is_over: Callable[[], bool] | None = None,
    seeds: Sequence[int] | None = None,
) -> list[str]:
    """Answer prompts that are encoded already; as :func:`answer` otherwise.

    Args:
        loaded: Who answers.
        inputs: The model's, padded on the left, on its device.
        settings: How tokens are chosen; slices and thinking are in the prompts.
        on_text: As for :func:`answer`; with one prompt only.
        is_over: As for :func:`answer`; it ends all of them.
        seeds: As for ``generate_answers``.
    """
    version, tokenizer = loaded.processor.version, loaded.processor.tokenizer
    opening = THINK_OPENING if thinking_setting(version, settings.enable_thinking) else ""
    if on_text is not None and opening:
        on_text(opening)
    ends = loaded.end_token_ids()
    stopping = {} if is_over is None else {"stopping_criteria": StoppingCriteriaList([StopWhen(is_over)])}
    rows = generate_answers(
        loaded.model,
        inputs,
        options=settings.options(version) | stopping,
        end_ids=ends,
        streamer=None if on_text is None else _CallingStreamer(loaded, on_text),
        seeds=seeds,
    )
    return [opening + decode_answer(tokenizer, row, ends) for row in rows]
