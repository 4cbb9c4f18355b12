"""Streams the text of one answer: whole characters, no surrounding white space, and nothing from a stop text on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minicpmv.models.answering.answers import unwritten_ids
from minicpmv.processing.text.answer_calls import overlap

__all__ = ["AnswerText"]

_INCOMPLETE = "\ufffd"
"""Replacement character at the end of a text while a character's last bytes are missing."""


class AnswerText:
    """Returns text as soon as it is final; all pieces together equal ``decode_answer`` of the tokens.

    Args:
        tokenizer: The checkpoint's tokenizer.
        end_ids: Tokens that end an answer.
        stops: Texts before which the answer ends.
    """

    def __init__(self, tokenizer: Any, end_ids: Sequence[int], stops: Sequence[str] = ()) -> None:
        self._tokenizer, self._stops = tokenizer, tuple(stops)
        self._unwritten = set(unwritten_ids(tokenizer, end_ids))
        self._unfinished: list[int] = []  # tokens of a character that is still incomplete
        self._held = ""
        self._is_first = True
        self._has_begun = False
        self.is_stopped = False
        """Whether a stop was found, after which nothing follows."""

    def push(self, token_id: int) -> str:
        """Take the next token and return the text that is now final."""
        if token_id in self._unwritten:
            return ""
        is_bos = self._is_first and token_id == self._tokenizer.bos_token_id
        self._is_first = False
        if is_bos:
            return ""
        self._unfinished.append(token_id)
        text = str(self._tokenizer.decode(self._unfinished))  # earlier tokens do not change a token's text
        if text.endswith(_INCOMPLETE):
            return ""
        self._unfinished = []
        self._held += text
        return self._release()

    def end(self) -> str:
        """Return the text that was held back."""
        if self.is_stopped:
            return ""
        if self._unfinished:
            self._held += str(self._tokenizer.decode(self._unfinished))
        piece = self._release()
        rest, self._held = self._held, ""
        return piece + self._without_outer_space(rest) if not self.is_stopped else piece

    def _release(self) -> str:
        """Release the held text except trailing white space and a possible beginning of a stop."""
        found = [place for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if found:
            self.is_stopped = True
            piece, self._held = self._held[: min(found)], ""
            return self._without_outer_space(piece)
        sure = len(self._held) - max((overlap(self._held, stop) for stop in self._stops), default=0)
        piece = self._held[:sure].rstrip()
        self._held = self._held[len(piece) :]
        return self._without_outer_space(piece)

    def _without_outer_space(self, piece: str) -> str:
        piece = piece.rstrip() if self._has_begun else piece.strip()
        self._has_begun = self._has_begun or bool(piece)
        return piece
