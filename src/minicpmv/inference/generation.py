"""Generates answers from messages: one at a time as it is written, or many in a batch.

Prompts come from the processor, so they are those of training. Decoding is greedy unless sampling is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
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
    stream_answer,
    thinking_setting,
)
from minicpmv.models.answering.limits import LIMITS, OF_SAMPLING, refuse_idle
from minicpmv.releases.table import Version

__all__ = ["GenerationSettings", "answer", "answer_batch", "answer_in_pieces", "draw_answers"]

Messages = Sequence[dict[str, Any]]
"""A conversation in transformers' multimodal format, the last message the user's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationSettings:
    """Settings of decoding.

    Raises:
        UsageError: One is no number that it may be, or could not act because nothing is drawn.
    """

    max_new_tokens: int = 1024
    """Longest answer, thoughts included."""
    sample: bool = False
    """Draw tokens at random instead of taking the likeliest; the next three settings then apply, and None means the
    default of the released ``chat()`` for the version."""
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    """A value above 1 makes tokens that the answer already has less likely. None: as the released ``chat()`` when
    sampling, else 1."""
    max_slice_nums: int | None = None
    """Most tiles cut from one picture; by default the checkpoint's number."""
    enable_thinking: bool = False
    """Let the model think before it answers; 4.5 and later."""

    def __post_init__(self) -> None:
        for name, limit in LIMITS.items():
            if name == "max_new_tokens" or getattr(self, name) is not None:
                limit.check(name, getattr(self, name))
        for name in ("sample", "enable_thinking"):
            if not isinstance(getattr(self, name), bool):
                raise UsageError(
                    f"{name}: found {getattr(self, name)!r}, expected True or False\n  fix: give one of them"
                )
        refuse_idle({name: getattr(self, name) for name in OF_SAMPLING}, sample=self.sample)

    def options(self, version: Version) -> dict[str, Any]:
        """Return the settings as arguments of transformers' ``generate``."""
        chosen: dict[str, Any] = {"max_new_tokens": self.max_new_tokens}
        names = ["repetition_penalty"]
        if self.sample:
            chosen |= released_options(version, sampling=True, enable_thinking=self.enable_thinking)
            names += ["temperature", "top_p", "top_k"]
        return chosen | {name: getattr(self, name) for name in names if getattr(self, name) is not None}


_GREEDY = GenerationSettings()


class _CallingStreamer(AnswerStreamer):
    """Passes each piece to a function instead of a queue."""

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
    tools: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Answer one conversation.

    Args:
        loaded: The model that answers.
        messages: The conversation so far.
        settings: How tokens are chosen. The answer always ends with the model's positions.
        on_text: Called with each piece of the answer as soon as it is written.
        is_over: Called after each token; the answer ends where it returns True.
        seed: Seed for sampling this answer; by default torch's own random state is used.
        tools: Functions that the model may call (4.6 and later), in OpenAI's form.

    Returns:
        The whole answer, without white space around it. With thinking it begins with ``<think>``, as the released
        ``chat()``'s does; ``processing.text.thinking.split_thinking`` separates the thoughts.

    Raises:
        UsageError: A message is malformed, the version cannot think, or the conversation is longer than the model
            allows.
        ImageError: A picture cannot be read.
        NotFiniteError: The model's logits are not finite.
    """
    inputs, settings = _encode_one(loaded, messages, settings, tools)
    seeds = None if seed is None else [seed]
    return draw_answers(loaded, inputs, settings=settings, on_text=on_text, is_over=is_over, seeds=seeds)[0]


def answer_in_pieces(
    loaded: LoadedModel, messages: Messages, *, settings: GenerationSettings = _GREEDY, seed: int | None = None
) -> Iterator[str]:
    """Yield the pieces of an answer while it is written; otherwise as :func:`answer`.

    Leaving the loop over it ends the answer.
    """
    inputs, settings = _encode_one(loaded, messages, settings, ())
    version = loaded.processor.version
    return stream_answer(
        loaded.model,
        inputs,
        tokenizer=loaded.processor.tokenizer,
        options=settings.options(version),
        end_ids=loaded.end_token_ids(),
        opening=THINK_OPENING if thinking_setting(version, settings.enable_thinking) else "",
        seeds=None if seed is None else [seed],
    )


def _encode_one(
    loaded: LoadedModel, messages: Messages, settings: GenerationSettings, tools: Sequence[Mapping[str, Any]]
) -> tuple[Mapping[str, Any], GenerationSettings]:
    """Return the inputs of one conversation, and the settings with an answer no longer than the model's positions."""
    inputs = _encode(loaded, [messages], settings, tools)
    length = inputs["input_ids"].shape[1]
    positions = cast("int", loaded.model.config.text_config.max_position_embeddings)  # pyright: ignore[reportAttributeAccessIssue]
    if length >= positions:
        raise UsageError(
            f"conversation: found {length} tokens with its pictures, expected fewer than {positions}, the model's "
            "limit\n  fix: start over, or show fewer or smaller pictures"
        )
    return inputs, replace(settings, max_new_tokens=min(settings.max_new_tokens, positions - length))


def answer_batch(
    loaded: LoadedModel, conversations: Sequence[Messages], *, settings: GenerationSettings = _GREEDY
) -> list[str]:
    """Answer several conversations in one batch; otherwise as :func:`answer`, but without its limit on the length."""
    return draw_answers(loaded, _encode(loaded, conversations, settings), settings=settings)


def _encode(
    loaded: LoadedModel,
    conversations: Sequence[Messages],
    settings: GenerationSettings,
    tools: Sequence[Mapping[str, Any]] = (),
) -> Mapping[str, Any]:
    processor = loaded.processor
    return processor.apply_chat_template(
        [list(messages) for messages in conversations],
        max_slice_nums=settings.max_slice_nums,
        enable_thinking=thinking_setting(processor.version, settings.enable_thinking),
        tools=list(tools) or None,
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
    """Answer prompts that are already encoded; otherwise as :func:`answer`.

    Args:
        loaded: The model that answers.
        inputs: The model's inputs, padded on the left, on its device.
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
