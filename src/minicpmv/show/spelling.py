"""Writes out one token so that a reader sees all of it: white space, partial characters, control tokens.

It knows the two ways in which the released tokenizers spell bytes: byte-level BPE (2.5 and later) and SentencePiece
with byte fallback (2.0).
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from typing import NamedTuple

from tokenizers import decoders
from transformers import PreTrainedTokenizerFast

__all__ = ["Mark", "TokenSpelling", "spell"]

_MARKS = {" ": "·", "\n": "↵", "\r": "␍", "\t": "⇥"}
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_SENTENCEPIECE_SPACE = "▁"


class Mark(NamedTuple):
    """Holds a stretch of a token as shown."""

    text: str
    is_sign: bool
    """Whether the text is a sign for something invisible, or for bytes that are not a whole character."""


class TokenSpelling:
    """Looks up the bytes of each token id.

    Args:
        tokenizer: The checkpoint's tokenizer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer
        self._added = {number: token.content for number, token in tokenizer.added_tokens_decoder.items()}
        self._is_byte_level = isinstance(tokenizer.backend_tokenizer.decoder, decoders.ByteLevel)

    def is_added(self, token_id: int) -> bool:
        """Return whether the token is a special or added one, such as ``<|im_end|>``, and not a piece of text."""
        return token_id in self._added

    def bytes_of(self, token_id: int) -> bytes:
        """Return the UTF-8 bytes that the token adds to the text, perhaps only part of a character."""
        if token_id in self._added:
            return self._added[token_id].encode()
        token = str(self._tokenizer.convert_ids_to_tokens(token_id))
        if self._is_byte_level:
            return bytes(_byte_of_letter()[letter] for letter in token)
        if byte := _BYTE.fullmatch(token):
            return bytes.fromhex(byte[1])
        return token.replace(_SENTENCEPIECE_SPACE, " ").encode()


def spell(data: bytes) -> list[Mark]:
    """Write out bytes, with signs for invisible characters.

    >>> spell("a b".encode())
    [Mark(text='a', is_sign=False), Mark(text='·', is_sign=True), Mark(text='b', is_sign=False)]
    """
    marks: list[Mark] = []
    for character in data.decode("utf-8", errors="surrogateescape"):
        mark = _mark(character)
        if marks and marks[-1].is_sign == mark.is_sign and len(mark.text) == 1:
            marks[-1] = Mark(marks[-1].text + mark.text, mark.is_sign)
        else:
            marks.append(mark)
    return marks


def _mark(character: str) -> Mark:
    if character in _MARKS:
        return Mark(_MARKS[character], is_sign=True)
    if "\udc80" <= character <= "\udcff":  # surrogateescape's form of a byte that is not a character
        return Mark(f"{ord(character) - 0xDC00:02X}", is_sign=True)
    if unicodedata.category(character) in {"Cc", "Cf", "Zs", "Zl", "Zp", "Co", "Cn"}:
        return Mark(f"U+{ord(character):04X}", is_sign=True)
    return Mark(character, is_sign=False)


@cache
def _byte_of_letter() -> dict[str, int]:
    """Return the byte of each letter of byte-level BPE: printable Latin-1 is itself, the rest starts at U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}
