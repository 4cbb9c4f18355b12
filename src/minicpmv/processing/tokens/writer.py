"""Collects the tokens of a conversation, and of each whether it is trained, filled by an image, or the format's.

Text beside text is encoded in one go, as the released ``chat()`` encodes a prompt.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from minicpmv.models.networks.loss import IGNORED
from minicpmv.processing.tokens.vocabulary import Vocabulary

__all__ = ["EncodedSample", "TokenWriter"]


@dataclass(frozen=True, slots=True)
class EncodedSample:
    """One conversation in tokens; all its lists have one length."""

    input_ids: list[int]
    labels: list[int]
    """Unshifted: ``labels[i]`` is the token at ``i`` if it is trained, otherwise -100, also in an answer of weight 0.
    One exception in 2.0, where answers between turns have no end token: its label stands on the token that follows the
    answer, and has the answer's weight."""
    image_mask: list[bool]
    """True where an image feature goes, in the order of the image blocks."""
    template_mask: list[bool]
    """True where the format, not the data, wrote the token: role headers, end tokens, tags around slices. A token made
    of both counts as what its first character is."""
    answer_mask: list[bool]
    """True on the tokens of answers and the end tokens written for them, trained or not. A token is never part of an
    answer and of something else, so it has the weight of its own turn."""
    label_weights: list[float] | None = None
    """How much each label counts in the loss, 0.0 where there is none; None where all labels count alike, as 1."""
    position_rows: NDArray[np.int64] | None = None
    """(3, tokens), for releases whose tokens have three positions each; None for the others, whose position is their
    place."""


class TokenWriter:
    """Collects tokens. Plain text waits until something that is not plain text follows, and is then encoded as one."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._ids: list[int] = []
        self._labels: list[int] = []
        self._mask: list[bool] = []
        self._template: list[bool] = []
        self._answers: list[bool] = []
        self._weights: list[float] = []
        self._waiting: list[tuple[str, bool]] = []  # stretches of text, and whether each is a template's
        self._expected: tuple[int, float] | None = None  # label and weight of an end that is not written
        self._weight: float | None = None  # of the waiting text, if it is an answer's
        self.slots_of_each: list[list[int]] = []
        """The positions at which the slots of each slice begin, a list for each image."""

    def write_template(self, text: str) -> None:
        """Write the format's text, in which control tokens are tokens."""
        self._write(self._vocabulary.split_template(text), is_template=True)

    def write_content(self, text: str) -> None:
        """Write what somebody else than the model says: a control token's spelling is plain text."""
        self._write(self._vocabulary.split_content(text))

    def write_answer(self, text: str, weight: float, *, goes_on: bool = False) -> None:
        """Write an answer's text; ``goes_on``: behind words of the format within it."""
        if not goes_on:
            self._flush()
        self._write(self._vocabulary.split_content(text), weight=weight)

    def write_answer_format(self, text: str, weight: float) -> None:
        """Write words of the format within an answer, which are trained like it."""
        self._write(self._vocabulary.split_template(text), weight=weight, is_template=True)

    def write_end(self, text: str, weight: float) -> None:
        """Write the token that ends an answer."""
        self._flush()
        self._append([self._vocabulary[text]], [True], weight=weight)

    def expect(self, text: str, weight: float) -> None:
        """Train the next token's place to be an end that the format does not write (2.0)."""
        self._flush()
        self._expected = (self._vocabulary[text] if weight else IGNORED, weight)

    def write_image(self, pieces: Iterator[str | int], slot: int) -> None:
        """Write an image's block: text of the format, and how many slots come next."""
        slots: list[int] = []
        for piece in pieces:
            if isinstance(piece, str):
                self.write_template(piece)
                continue
            self._flush()
            slots.append(len(self._ids))
            self._append([slot] * piece, [False] * piece, is_image=True)
        self.slots_of_each.append(slots)

    def finish(self) -> EncodedSample:
        """Return what was written."""
        self._flush()
        assert self._expected is None, "an unwritten end needs a token after it"
        weights = None if {0.0, 1.0}.issuperset(self._weights) else self._weights
        return EncodedSample(self._ids, self._labels, self._mask, self._template, self._answers, weights)

    def _write(
        self,
        pieces: Iterator[str | int | None] | Iterator[str | int],
        *,
        weight: float | None = None,
        is_template: bool = False,
    ) -> None:
        """Write text; ``weight`` is that of an answer, whose text is never encoded with other text."""
        if weight != self._weight:
            self._flush()
        self._weight = weight
        for piece in pieces:
            if isinstance(piece, str):
                self._waiting.append((piece, is_template))
                continue
            self._flush()
            if piece is not None:
                self._append([piece], [is_template], weight=weight)

    def _flush(self) -> None:
        if self._waiting:
            text = "".join(piece for piece, _ in self._waiting)
            ids = self._vocabulary.encode_plain(text)
            self._append(ids, self._owners(text, len(ids)), weight=self._weight)
            self._waiting.clear()

    def _owners(self, text: str, num_tokens: int) -> list[bool]:
        """Tell of each token of the waiting text whether a template wrote its first character."""
        if len({is_template for _, is_template in self._waiting}) == 1:
            return [self._waiting[0][1]] * num_tokens
        owner_of_character = [is_template for piece, is_template in self._waiting for _ in piece]
        return [owner_of_character[start] for start in self._vocabulary.find_tokens(text)]

    def _append(
        self, ids: list[int], from_template: list[bool], *, weight: float | None = None, is_image: bool = False
    ) -> None:
        labels = list(ids) if weight else [IGNORED] * len(ids)
        weights = [float(weight or 0.0)] * len(ids)
        if self._expected is not None and ids:
            (labels[0], weights[0]), self._expected = self._expected, None
        self._ids += ids
        self._labels += labels
        self._weights += weights
        self._answers += [weight is not None] * len(ids)
        self._mask += [is_image] * len(ids)
        self._template += from_template
