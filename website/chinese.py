"""Makes the site's search find Chinese: a run of Chinese characters is indexed, and asked for, as pairs of neighbours.

Sphinx alone takes a whole clause for one word. Pairs need no dictionary: "训练数据" finds a page with "训练", "练数"
and "数据". English words are stemmed as Sphinx does.
"""

from __future__ import annotations

import re

from sphinx.search import languages  # pyright: ignore[reportMissingImports] # in .site
from sphinx.search.en import SearchEnglish  # pyright: ignore[reportMissingImports] # in .site

__all__ = ["LANGUAGE", "register_search", "split_words"]

LANGUAGE = "en-and-zh"

_WORDS = re.compile(r"[\u4e00-\u9fff]+|[^\W\u4e00-\u9fff]+")
_SPLITTER = r"""
function splitQuery(query) {
  const words = query.match(/[\u4e00-\u9fff]+|(?:(?![\u4e00-\u9fff])[\p{Letter}\p{Number}_])+/gu) || [];
  return words.flatMap((word) =>
    /[\u4e00-\u9fff]/.test(word) && word.length > 2
      ? Array.from({ length: word.length - 1 }, (_, place) => word.slice(place, place + 2))
      : [word]
  );
}
"""


def split_words(text: str) -> list[str]:
    """Split a text into English words, and Chinese into pairs of characters.

    >>> split_words("训练数据 train_data")
    ['训练', '练数', '数据', 'train_data']
    """
    words: list[str] = []
    for word in _WORDS.findall(text):
        if "\u4e00" <= word[0] <= "\u9fff" and len(word) > 2:
            words += [word[place : place + 2] for place in range(len(word) - 1)]
        else:
            words.append(word)
    return words


class _EnglishAndChinese(SearchEnglish):  # the name of the language stays: Sphinx finds the stemmer's script by it
    lang = LANGUAGE
    js_splitter_code = _SPLITTER

    def split(self, input: str) -> list[str]:  # the name is Sphinx's
        return split_words(input)

    def word_filter(self, word: str) -> bool:
        is_chinese = "\u4e00" <= word[0] <= "\u9fff"
        return is_chinese or super().word_filter(word)


def register_search() -> None:
    """Let ``html_search_language`` name this way of splitting."""
    languages[LANGUAGE] = _EnglishAndChinese
