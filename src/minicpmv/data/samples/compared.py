"""Makes tokens of records whose answers are compared: the question, the better answer and then the worse one.

Of an answer that is judged by itself there is only that. Earlier answers of the conversation are context.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from minicpmv.data.records.record import Kind, Record
from minicpmv.models.networks.loss import IGNORED
from minicpmv.processing.text.turns import Turn

__all__ = ["Comparison", "Tokens", "find_changes"]

_SHORTEST_MATCH = 3
"""Tokens. Shorter common stretches of two answers are chance, as in RLHF-V's code."""


class Encoded(Protocol):
    """A conversation as the processor encodes it, of which ``Tokens`` are made."""

    input_ids: list[int]
    labels: list[int]
    image_mask: list[bool]
    label_weights: list[float] | None
    position_rows: NDArray[np.int64] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Tokens:
    """A record in tokens; lists as in ``EncodedSample``."""

    input_ids: list[int]
    labels: list[int]
    image_mask: list[bool]
    label_weights: list[float] | None
    position_rows: NDArray[np.int64] | None
    segments: list[list[int]] | None = None
    """Segments of each answer, as ``Layout.read`` takes them, with places from the record's first token; None where
    answers are not compared."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Reads records as a run needs them."""

    kind: Kind | None = "conversation"
    """None: each record as what it is, where nothing is trained and files may hold several kinds."""
    segment_weight: float = 1.0
    """How much tokens count in which two answers differ; others count 1."""

    def encode(
        self, record: Record, whole: Callable[[Sequence[Turn]], Any], text: Callable[[Sequence[Turn]], Any]
    ) -> Any:
        """Encode a record.

        Args:
            record: The record.
            whole: Encodes the turns of a conversation, with its images or without.
            text: Encodes turns without their images, for the second answer.

        Returns:
            What ``whole`` returned, and the record's ``Tokens``, which for conversations are the same.
        """
        kind = self.kind or record.kind
        if kind == "conversation":
            encoded = whole(record.turns)
            return encoded, encoded
        turns = [replace(turn, weight=0.0) if turn.role == "assistant" else turn for turn in record.turns[:-1]]
        encoded = whole([*turns, record.turns[-1]])
        if kind == "answer":
            return encoded, _as_tokens(encoded, [[len(encoded.input_ids), 0, 0, 1 if record.desirable else -1]])
        return encoded, self._join(record, encoded, text([*turns, *record.rejected]))

    def _join(self, record: Record, chosen: Encoded, rejected: Encoded) -> Tokens:
        start = _common_start(chosen, rejected)
        assert start, "a conversation begins with a question"
        assert not any(chosen.image_mask[start:] + rejected.image_mask[start:]), "checking has refused pictures there"
        first, second = chosen.input_ids[start:], rejected.input_ids[start:]
        rows = None
        if chosen.position_rows is not None and rejected.position_rows is not None:
            rows = np.concatenate([chosen.position_rows, rejected.position_rows[:, start:]], axis=1)
        return Tokens(
            input_ids=chosen.input_ids + second,
            labels=chosen.labels + rejected.labels[start:],
            image_mask=chosen.image_mask + rejected.image_mask[start:],
            label_weights=self._weights(chosen, rejected, start),
            position_rows=rows,
            segments=[[start + len(first), 0, 0, 1], [len(second), 0, start, -1]],
        )

    def _weights(self, chosen: Encoded, rejected: Encoded, start: int) -> list[float] | None:
        given = [_weights_of(each) for each in (chosen, rejected)]
        if chosen.label_weights is None and rejected.label_weights is None and self.segment_weight == 1:
            return None
        if self.segment_weight != 1:
            changes = find_changes(chosen.input_ids, rejected.input_ids, start)
            for weights, changed in zip(given, changes, strict=True):
                for place in changed:
                    weights[place] *= self.segment_weight
        return given[0] + given[1][start:]


def find_changes(first: Sequence[int], second: Sequence[int], start: int) -> tuple[list[int], list[int]]:
    """Find the tokens in which two answers to one question differ, as RLHF-V's code does. arXiv 2312.00849.

    Between common stretches lie gaps; only a gap with tokens on both sides counts, so what was merely inserted, or
    merely left out, does not. Common stretches of fewer than three tokens are no such stretches. Other than there, the
    question is not searched: its last tokens stand for it.

    >>> find_changes([1, 2, 3, 7, 8, 4, 5, 6], [1, 2, 3, 9, 4, 5, 6, 6], 3)
    ([3, 4], [3])

    Args:
        first: Ids of question and answer.
        second: Ids of the same question and the other answer.
        start: Tokens of the question.

    Returns:
        Places in each of them.
    """
    begin = max(start - _SHORTEST_MATCH, 0)
    matcher = SequenceMatcher(None, first[begin:], second[begin:], autojunk=False)
    changed: tuple[list[int], list[int]] = ([], [])
    places = [begin, begin]
    for left, right, size in matcher.get_matching_blocks():
        if 0 < size < _SHORTEST_MATCH:
            continue
        ends = [begin + left, begin + right]
        if all(end > place for end, place in zip(ends, places, strict=True)):
            for found, place, end in zip(changed, places, ends, strict=True):
                found.extend(range(place, end))
        places = [end + size for end in ends]
    return changed


def _common_start(chosen: Encoded, rejected: Encoded) -> int:
    """Count the tokens before both answers: those of the question, and no label among them."""
    start = 0
    for ours, theirs, label, other in zip(
        chosen.input_ids, rejected.input_ids, chosen.labels, rejected.labels, strict=False
    ):
        if ours != theirs or label != IGNORED or other != IGNORED:
            break
        start += 1
    if chosen.position_rows is not None and rejected.position_rows is not None:
        same = (chosen.position_rows[:, :start] == rejected.position_rows[:, :start]).all(axis=0)
        start = int(same.argmin()) if not same.all() else start
    return start


def _weights_of(sample: Encoded) -> list[float]:
    weights = sample.label_weights
    return list(weights) if weights is not None else [float(label != IGNORED) for label in sample.labels]


def _as_tokens(sample: Encoded, segments: list[list[int]]) -> Tokens:
    return Tokens(
        input_ids=sample.input_ids,
        labels=sample.labels,
        image_mask=sample.image_mask,
        label_weights=sample.label_weights,
        position_rows=sample.position_rows,
        segments=segments,
    )
