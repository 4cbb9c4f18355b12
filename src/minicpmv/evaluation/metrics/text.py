"""Brings texts into the form in which metrics compare them."""

from __future__ import annotations

import re
import unicodedata

__all__ = ["normalise", "split_words"]

_ARTICLE = re.compile(r"\b(?:a|an|the)\b")
_ASCII_SIGNS = frozenset("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
# Chinese characters and kana: scripts without spaces between words, so each character counts as a word.
_UNSPACED = "\\u3040-\\u30ff\\u3400-\\u4dbf\\u4e00-\\u9fff\\uf900-\\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")


def normalise(text: str) -> str:
    """Remove case, punctuation, the articles a, an, the, and repeated white space.

    This is the rule of SQuAD's evaluation (Rajpurkar et al., 2016), with the punctuation of all scripts.

    >>> normalise("The  cat, on “it”.")
    'cat on it'
    """
    kept = "".join(sign for sign in text.lower() if not _is_punctuation(sign))
    return " ".join(_ARTICLE.sub(" ", kept).split())


def _is_punctuation(sign: str) -> bool:
    return sign in _ASCII_SIGNS or unicodedata.category(sign).startswith("P")


def split_words(text: str) -> list[str]:
    """Split a text into lower-case words of letters and digits; a Chinese or Japanese character is a word.

    >>> split_words("The cat's 2nd 猫咪!")
    ['the', 'cat', 's', '2nd', '猫', '咪']
    """
    return _WORD.findall(text.lower())
