"""From messages to answers: one at a time as it is written, or many in a batch.

Prompts come from the processor, so they are the ones that were trained. Greedy unless sampling is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from transformers import TextStreamer

from minicpmv.inference.loading import LoadedModel

__all__ = ["GenerationSettings", "answer", "answer_batch"]

Messages = Sequence[dict[str, Any]]
"""A conversation in transformers' multimodal format, the last message the user's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationSettings:
    """How answers are chosen."""

    max_new_tokens: int = 1024
    """Longest answer."""
    sample: bool = False
    """Draw tokens at random instead of taking the likeliest; the next three settings then apply."""
    temperature: float = 0.7
    top_p: float = 0.8
    top_k: int = 100
    repetition_penalty: float = 1.0
    """Above 1 makes a token that was said already less likely. The released ``chat()`` uses 1.05 when sampling."""
    max_slice_nums: int | None = None
    """Most tiles cut from one picture; the checkpoint's own number if not given."""

    def options(self) -> dict[str, Any]:
        """The same, in the words of transformers' ``generate``."""
        if self.sample:
            choice = {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k}
        else:
            choice = {"temperature": None, "top_p": None, "top_k": None}  # else a saved default would be warned about
        return {
            "max_new_tokens": self.max_new_tokens,
            "do_sample": self.sample,
            "repetition_penalty": self.repetition_penalty,
            **choice,
        }


_GREEDY = GenerationSettings()


class _AnswerStreamer(TextStreamer):
    """Hands over text as soon as whole words are there; end tokens are left out, markup such as ``<box>`` is kept."""

    def __init__(self, tokenizer: Any, end_token_ids: Sequence[int], on_text: Callable[[str], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True)
        self._ends = torch.tensor(list(end_token_ids))
        self._on_text = on_text

    def put(self, value: Tensor) -> None:
        if not self.next_tokens_are_prompt:
            value = value[~torch.isin(value, self._ends)]
        super().put(value)

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
        The whole answer, without white space around it.

    Raises:
        UsageError: A message is not understood.
        ImageError: A picture cannot be read.
    """
    streamer = None
    if on_text is not None:
        streamer = _AnswerStreamer(loaded.processor.tokenizer, loaded.end_token_ids(), on_text)
    return _generate(loaded, [messages], settings, streamer)[0]


def answer_batch(
    loaded: LoadedModel, conversations: Sequence[Messages], *, settings: GenerationSettings = _GREEDY
) -> list[str]:
    """Answer several conversations in one batch; as :func:`answer` otherwise."""
    return _generate(loaded, conversations, settings, None)


@torch.inference_mode()
def _generate(
    loaded: LoadedModel,
    conversations: Sequence[Messages],
    settings: GenerationSettings,
    streamer: TextStreamer | None,
) -> list[str]:
    batch = [list(messages) for messages in conversations]
    inputs = loaded.processor.apply_chat_template(batch, max_slice_nums=settings.max_slice_nums).to(loaded.device)
    ends = loaded.end_token_ids()
    model = cast("Any", loaded.model)  # transformers types generate() for its own classes only
    generated = model.generate(
        **inputs, **settings.options(), eos_token_id=ends, pad_token_id=ends[0], streamer=streamer
    )
    answers = generated[:, inputs["input_ids"].shape[1] :].tolist()
    return [_decode(loaded, token_ids, set(ends)) for token_ids in answers]


def _decode(loaded: LoadedModel, token_ids: Sequence[int], ends: set[int]) -> str:
    # The released code also drops every id 0, which is "!" from 2.5 on; that is not repeated here.
    kept = [token_id for token_id in token_ids if token_id not in ends]
    return str(loaded.processor.tokenizer.decode(kept)).strip()
