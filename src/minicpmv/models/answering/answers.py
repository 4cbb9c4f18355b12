"""How answers are drawn and read: the released ``chat()``'s ways of choosing tokens, end tokens, streaming.

Shared by ``model.chat()`` and ``minicpmv.inference``. Prompts are made elsewhere; the drawing itself is transformers'.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from transformers import (
    RepetitionPenaltyLogitsProcessor,
    StoppingCriteria,
    StoppingCriteriaList,
    TextIteratorStreamer,
)

from minicpmv.errors import UsageError
from minicpmv.models.answering.finite_logits import FiniteLogits, StopAtNotFinite
from minicpmv.models.answering.own_randomness import DrawRowByRow, warpers
from minicpmv.releases.table import Version

__all__ = [
    "THINK_OPENING",
    "AnswerStreamer",
    "StopWhen",
    "decode_answer",
    "end_token_ids",
    "generate_answers",
    "released_options",
    "stream_answer",
    "thinking_setting",
    "unwritten_ids",
]

THINK_OPENING = "<think>\n"
"""Ends the prompt of a model that shall think. Answers are returned with it, as the released ``chat()`` does."""

# What transformers takes where nothing is said. Said here because a checkpoint's generation_config.json would come
# before it: the released chat() never sees that file, as it generates with the inner language model.
_UNSET: Mapping[str, Any] = {
    "do_sample": False,
    "num_beams": 1,
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 50,
    "repetition_penalty": 1.0,
    "use_cache": True,  # 2.5's config says false, and every token would be computed again for each new one
}


def thinking_setting(version: Version, enable_thinking: bool) -> bool | None:
    """Return the template's thinking switch: as given for a version that can think, None for one that cannot.

    Raises:
        UsageError: Thinking is asked of a version that cannot.
    """
    if version.reading.thinking:
        return bool(enable_thinking)
    if enable_thinking:
        raise UsageError(
            f"thinking: found it asked of {version.model}, expected a version with a thinking mode (4.5 and later)\n"
            "  fix: leave it off, or use openbmb/MiniCPM-V-4_5"
        )
    return None


def released_options(version: Version, *, sampling: bool, enable_thinking: bool | None = None) -> dict[str, Any]:
    """Return what the released ``chat()`` sets for ``generate``, and nothing that it leaves alone."""
    if not sampling:
        return {"num_beams": 3, "repetition_penalty": 1.2}
    if enable_thinking:
        return {"do_sample": True, "temperature": 0.7}
    return {
        "do_sample": True,
        "temperature": 0.7,
        "top_p": 0.8,
        "top_k": 100,
        "repetition_penalty": version.answering.repetition_penalty,
    }


def end_token_ids(tokenizer: Any, version: Version) -> list[int]:
    """Return the ids at which an answer ends. Released generation configs miss some of them."""
    ids = tokenizer.added_tokens_encoder  # not convert_tokens_to_ids, which has <unk>'s id for what it does not know
    return [ids[token] for token in version.reading.terminators if token in ids]


# Not inference_mode: asked between two steps of its training, a model and the caches below would keep tensors that no
# backward pass can use.
@torch.no_grad()
def generate_answers(
    model: Any,
    inputs: Mapping[str, Any],
    *,
    options: Mapping[str, Any],
    end_ids: Sequence[int],
    streamer: Any = None,
    seeds: Sequence[int] | None = None,
    logits: FiniteLogits | None = None,
) -> list[list[int]]:
    """Draw one answer for each row.

    Args:
        model: With transformers' ``generate``.
        inputs: What the processor made of the conversations, on the model's device.
        options: For ``generate``. What is neither here nor a checkpoint's rarer setting has transformers' defaults.
            ``repetition_penalty`` counts what was answered and not the prompt, as in the released code, whose language
            model is given embeddings and so never sees the prompt's ids.
        end_ids: Where an answer ends.
        streamer: Gets each token as it is drawn.
        seeds: One for each row, where tokens are drawn at random: a row's are then drawn with random numbers of its
            own, so that they do not depend on the other rows. Not for beams.
        logits: Looks at the scores. Whoever gives it also says what becomes of a row at fault; otherwise one such row
            ends all of them with an error.

    Returns:
        The new tokens of each row, end tokens and padding included.

    Raises:
        NotFiniteError: The logits of a row are not finite, and ``logits`` was not given.
    """
    settings = {"eos_token_id": list(end_ids), "pad_token_id": end_ids[0], **_UNSET, **options}
    length = inputs["input_ids"].shape[1]
    penalty = float(settings.pop("repetition_penalty"))
    is_own = logits is None
    if logits is None:
        # A streamer has the host wait for each token anyway, and must not be handed one that means nothing. Beams
        # multiply rows, and end only when all have.
        logits = FiniteLogits(model, raises=streamer is not None or (settings["num_beams"] or 1) > 1)
        stopping = [*(settings.get("stopping_criteria") or []), StopAtNotFinite(logits)]
        settings["stopping_criteria"] = StoppingCriteriaList(stopping)
    settings["logits_processor"] = [logits, *(settings.get("logits_processor") or [])]
    if penalty != 1.0:
        own = RepetitionPenaltyLogitsProcessor(penalty, prompt_ignore_length=length)
        settings["logits_processor"] = [*settings["logits_processor"], own]
    if seeds is not None and settings["do_sample"]:
        settings["logits_processor"] = [*settings["logits_processor"], *warpers(settings), DrawRowByRow(seeds)]
        settings |= {name: _UNSET[name] for name in ("do_sample", "temperature", "top_k", "top_p")}
    generated = model.generate(**inputs, **settings, streamer=streamer)
    if is_own:
        logits.check()
    return generated[:, length:].tolist()


def decode_answer(tokenizer: Any, token_ids: Sequence[int], end_ids: Sequence[int]) -> str:
    """Return the text of an answer without end tokens, a leading BOS and white space around it; markup stays."""
    unwritten = unwritten_ids(tokenizer, end_ids)
    kept = [token_id for token_id in token_ids if token_id not in unwritten]
    if kept and kept[0] == tokenizer.bos_token_id:
        kept = kept[1:]
    return str(tokenizer.decode(kept)).strip()


def unwritten_ids(tokenizer: Any, end_ids: Sequence[int]) -> list[int]:
    """Return ids that are not part of an answer's text.

    The released code drops id 0 as padding. In 2.0 that is ``<unk>``, and so it is here. From 2.5 on it is "!", which
    the released code thereby loses and this does not.
    """
    return [*end_ids, 0] if tokenizer.unk_token_id == 0 else list(end_ids)


class AnswerStreamer(TextIteratorStreamer):
    """Yields text as soon as whole words are there, without the prompt and without end tokens.

    Args:
        tokenizer: The checkpoint's.
        end_ids: Where an answer ends.
    """

    def __init__(self, tokenizer: Any, end_ids: Sequence[int]) -> None:
        super().__init__(tokenizer, skip_prompt=True)
        self._unwritten = torch.tensor(unwritten_ids(tokenizer, end_ids))

    def put(self, value: Tensor) -> None:
        """Override transformers: leave out end tokens before their text is made. ``value`` is (T,) or (1, T) int64."""
        if not self.next_tokens_are_prompt:
            value = value[~torch.isin(value, self._unwritten)]
        super().put(value)


def stream_answer(
    model: Any,
    inputs: Mapping[str, Any],
    *,
    tokenizer: Any,
    options: Mapping[str, Any],
    end_ids: Sequence[int],
    opening: str = "",
    seeds: Sequence[int] | None = None,
) -> Iterator[str]:
    """Yield ``opening``, then an answer piece by piece while a thread draws it; otherwise as ``generate_answers``.

    What goes wrong in the thread is raised here, after the pieces that came before. Closing the generator, or leaving
    the loop over it, ends the thread at its next token.
    """
    streamer = AnswerStreamer(tokenizer, end_ids)
    stopped = threading.Event()
    criteria = StoppingCriteriaList([*(options.get("stopping_criteria") or []), StopWhen(stopped.is_set)])
    settings = {**options, "stopping_criteria": criteria}
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="chat") as pool:
        drawing = pool.submit(
            generate_answers, model, inputs, options=settings, end_ids=end_ids, streamer=streamer, seeds=seeds
        )
        drawing.add_done_callback(lambda _: streamer.end())  # also when it failed; a second end changes nothing
        try:
            yield from filter(None, chain([opening], streamer))
        finally:
            stopped.set()
    drawing.result()


class StopWhen(StoppingCriteria):
    """Ends a generation after the token at which a function says so; it is called after each."""

    def __init__(self, is_over: Callable[[], bool]) -> None:
        self._is_over = is_over

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return torch.full((len(input_ids),), self._is_over(), device=input_ids.device)
