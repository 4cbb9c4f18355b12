"""Answers several requests in one batch, and streams to each its own tokens.

A row with a complete answer, or whose client has left, is finished; when all rows are, the batch ends.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList

from minicpmv.models.answering.answers import THINK_OPENING, generate_answers
from minicpmv.models.answering.finite_logits import FiniteLogits, explain_not_finite
from minicpmv.processing.batching import pad_left
from minicpmv.processing.encoding import EncodedConversation
from minicpmv.processing.text.answer_calls import CallReader
from minicpmv.processing.text.tool_calls import ToolCall
from minicpmv.serving.answers.answer_text import AnswerText
from minicpmv.serving.answers.sampling import Drawing, RowDrawing
from minicpmv.serving.answers.served_models import ServedModels
from minicpmv.serving.errors import RequestError, not_finite
from minicpmv.serving.requests.prompt import Prompt

__all__ = ["Event", "Finished", "Question", "answer_together"]

_log = logging.getLogger("uvicorn.error")


@dataclass(frozen=True, slots=True)
class Finished:
    """Reports that an answer is complete."""

    reason: Literal["stop", "length", "tool_calls"]
    num_tokens: int
    """Tokens of the answer, including its end token."""


Event = str | ToolCall | Finished | RequestError
"""A piece of an answer or one of its calls, its end, or the error that prevents it."""


@dataclass(kw_only=True, slots=True, eq=False)
class Question:
    """Holds one request until it is answered."""

    model: str
    """Name of the requested model."""
    prompt: Prompt
    drawing: Drawing = field(default_factory=Drawing)
    stops: tuple[str, ...] = ()
    deliver: Callable[[Event], None]
    """Receives the events, in the thread that answers."""
    is_abandoned: bool = False
    """Set when the client has left."""


def answer_together(served: ServedModels, questions: Sequence[Question]) -> None:
    """Answer questions to one model; a question with a damaged image, or logits that are not finite, fails alone."""
    loaded = served.loaded
    rows: list[_Row] = []
    encoded: list[EncodedConversation] = []
    end_ids = loaded.end_token_ids()
    for question in questions:
        if question.is_abandoned:
            continue
        try:
            encoded.append(question.prompt.encode(loaded))
        except RequestError as error:
            question.deliver(error)
            continue
        rows.append(_Row(question, AnswerText(loaded.processor.tokenizer, end_ids, question.stops), end_ids))
    if not rows:
        return
    logits = FiniteLogits(loaded.model, raises=False)
    options = {
        "max_new_tokens": max(row.question.prompt.max_new_tokens for row in rows),
        "logits_processor": [RowDrawing([row.question.drawing for row in rows], loaded.device)],
        "stopping_criteria": StoppingCriteriaList([_TellRows(rows, logits)]),
    }
    inputs = pad_left(encoded, loaded.processor.image_processor, "pt").to(loaded.device)
    with served.answering_as(questions[0].model):
        generate_answers(loaded.model, inputs, options=options, end_ids=end_ids, logits=logits)
        if any(row.has_failed for row in rows):
            _log.error("%s", explain_not_finite(loaded.model))


class _Row:
    """Tracks what has been sent to one question."""

    def __init__(self, question: Question, text: AnswerText, end_ids: Sequence[int]) -> None:
        self.question = question
        self.is_done = self.has_failed = False
        self._text, self._end_ids = text, end_ids
        self._num_tokens = 0
        prompt = question.prompt
        self._calls = CallReader(prompt.tools, thinks=bool(prompt.enable_thinking)) if prompt.tools else None
        self._has_called = False

    def take(self, token_id: int) -> None:
        """Send the question its next token."""
        if self.question.is_abandoned:
            self.is_done = True
            return
        if not self._num_tokens and self.question.prompt.enable_thinking:
            self._deliver(THINK_OPENING)
        self._num_tokens += 1
        has_ended = token_id in self._end_ids
        if piece := self._text.push(token_id):
            self._deliver(piece)
        is_full = self._num_tokens >= self.question.prompt.max_new_tokens
        if has_ended or is_full or self._text.is_stopped:
            if piece := self._text.end():
                self._deliver(piece)
            self._deliver("", is_last=True)
            reason = "tool_calls" if self._has_called else "stop"
            if not (has_ended or self._text.is_stopped):
                reason = "length"
            self.question.deliver(Finished(reason, self._num_tokens))
            self.is_done = True

    def _deliver(self, text: str, *, is_last: bool = False) -> None:
        """Pass on text, and the calls in it if tools were announced."""
        pieces: list[str | ToolCall] = [text] if text else []
        if self._calls is not None:
            pieces = self._calls.push(text) + (self._calls.end() if is_last else [])
        for piece in pieces:
            self._has_called = self._has_called or isinstance(piece, ToolCall)
            self.question.deliver(piece)

    def fail(self) -> None:
        """Report to the question that there is no answer, or no more of it."""
        self.question.deliver(not_finite(self.question.model))
        self.is_done = self.has_failed = True


class _TellRows(StoppingCriteria):
    """Passes on each row's newest token, and ends rows one by one."""

    def __init__(self, rows: Sequence[_Row], logits: FiniteLogits) -> None:
        self._rows, self._logits = rows, logits

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        faulty_B = self._logits.faulty_B
        assert faulty_B is not None, "the scores are checked before a token is chosen"
        tokens_B, faults_B = torch.stack(
            [input_ids[:, -1], faulty_B.to(input_ids)]
        ).tolist()  # one device sync for both
        for row, token_id, is_faulty in zip(self._rows, tokens_B, faults_B, strict=True):
            if row.is_done:
                continue
            if is_faulty:
                row.fail()
            else:
                row.take(token_id)
        return torch.tensor([row.is_done for row in self._rows], device=input_ids.device)
