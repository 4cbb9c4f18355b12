"""Lets a model judge answers: a question about each, answered by yes or no, of which only the first token is read."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from minicpmv.data.records.answers import Draws
from minicpmv.data.records.record import Record
from minicpmv.data.records.sequences import LazySequence
from minicpmv.errors import UsageError
from minicpmv.inference.generation import GenerationSettings
from minicpmv.inference.loading import LoadedModel
from minicpmv.inference.predicting import Answering, Prediction, Predictor
from minicpmv.inference.questions import Question
from minicpmv.models.answering.finite_logits import explain_not_finite
from minicpmv.processing.text.thinking import without_thinking
from minicpmv.processing.text.turns import Turn

__all__ = ["JudgedAnswers", "Judgement", "Judging"]

_YES, _NO = ("yes", "Yes"), ("no", "No")


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement(Prediction):
    """One answer as a model judges it; ``answer`` is ``yes`` or ``no``."""

    yes: float
    """Probability of ``yes`` or ``Yes`` as the first token."""
    no: float
    """Probability of ``no`` or ``No``."""


class JudgedAnswers(LazySequence[Record]):
    """Makes records that ask about answers: the same pictures, and one question.

    Args:
        draws: What was answered.
        answers: The answers, in that order.
        question: What is asked, with ``{question}`` and ``{answer}`` where these belong.
    """

    def __init__(self, draws: Draws, answers: Sequence[str], question: str) -> None:
        self._draws, self._answers, self._question = draws, answers, question
        self.fields = draws.fields

    def __len__(self) -> int:
        return len(self._draws)

    def _item(self, index: int) -> Record:
        record = self._draws[index]
        shown = record.turns[:-1] if record.turns[-1].role == "assistant" else record.turns
        text = self._question.replace("{question}", shown[-1].text.strip())
        text = text.replace("{answer}", without_thinking(self._answers[index]))
        pictures = [part for turn in shown for part in turn.content if not isinstance(part, str)]
        return replace(record, turns=(Turn("user", (*pictures, text)),), references=())


@dataclass(frozen=True, kw_only=True, slots=True)
class Judging:
    """Judges batches of answers, as work for ``model_processes``."""

    max_slice_nums: int | None = None
    """Most tiles cut from one picture; by default the checkpoint's own number."""

    def __call__(self, loaded: LoadedModel, batches: Iterable[Sequence[Question]]) -> Generator[list[Prediction]]:
        """Judge batch by batch.

        Args:
            loaded: The model that judges.
            batches: Batches of questions from :class:`JudgedAnswers`.

        Raises:
            UsageError: Yes and no begin with the same token.
            NotFiniteError: The logits for a record are not finite.
        """
        settings = GenerationSettings(max_new_tokens=1, max_slice_nums=self.max_slice_nums)
        return _Judge(loaded, Answering(settings=settings)).answer_all(batches)


class _Judge(Predictor):
    def __init__(self, loaded: LoadedModel, work: Answering) -> None:
        super().__init__(loaded, work)
        self._yes, self._no = (_first_tokens(loaded, words) for words in (_YES, _NO))
        if set(self._yes) & set(self._no):
            raise UsageError(
                "--judge-question: found that 'yes' and 'no' begin with the same token of this model, expected two\n"
                "  fix: judge by another model (--judge-model) or by a metric (--judge)"
            )

    def draw(self, inputs: dict[str, Any], indices: Sequence[int]) -> Sequence[Any]:
        with torch.inference_mode():
            logits = self._loaded.model(**inputs, logits_to_keep=1, use_cache=False).logits[:, -1].float()
        if not bool(torch.isfinite(logits).all()):
            rows = (~torch.isfinite(logits).all(dim=-1)).nonzero().flatten().tolist()
            raise explain_not_finite(self._loaded.model, rows=rows)
        likely = logits.softmax(dim=-1)
        return [(float(row[self._yes].sum()), float(row[self._no].sum())) for row in likely]

    def result(self, question: Question, said: Any) -> Prediction:
        yes, no = said
        return Judgement(
            index=int(question.index),
            id=question.record.id,
            question=question.record.turns[-1].text,
            answer="yes" if yes > no else "no",
            reference=None,
            yes=yes,
            no=no,
        )


def _first_tokens(loaded: LoadedModel, words: Sequence[str]) -> list[int]:
    encode: Any = loaded.processor.tokenizer.encode
    return sorted({encode(word, add_special_tokens=False)[0] for word in words})
