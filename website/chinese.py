"""Makes the site's search find Chinese, and puts Chinese words on the parts around a Chinese page.

A run of Chinese characters is indexed, and asked for, as pairs of neighbours; Sphinx alone takes a whole clause for one
word. Pairs need no dictionary: "训练数据" finds a page with "训练", "练数" and "数据". English words are stemmed as
Sphinx does.
"""

from __future__ import annotations

import gettext
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pydata_sphinx_theme  # pyright: ignore[reportMissingImports] # in .site
import sphinx.locale  # pyright: ignore[reportMissingImports] # in .site
from sphinx.search import languages  # pyright: ignore[reportMissingImports] # in .site
from sphinx.search.en import SearchEnglish  # pyright: ignore[reportMissingImports] # in .site

__all__ = ["LANGUAGE", "page_words", "register_search", "split_words"]

LANGUAGE = "en-and-zh"

_UNTRANSLATED = {
    "Breadcrumb": "当前位置",
    "Collapse Sidebar": "收起侧栏",
    "Color mode": "颜色模式",
    "Dark": "深色",
    "Expand Sidebar": "展开侧栏",
    "Light": "浅色",
    "System Settings": "跟随系统",
}
"""Words of the theme that neither its catalogue nor Sphinx's translates; those that do are asked first."""

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


class _OwnWords(gettext.NullTranslations):
    def gettext(self, message: str) -> str:
        return _UNTRANSLATED.get(message, message)


def page_words() -> Mapping[str, Any]:
    """Return what a template is given to say the theme's words in Chinese.

    A build has one language, in which templates are translated through global functions. These of the page go before.
    """
    words: gettext.NullTranslations = _OwnWords()
    for package, language in ((sphinx.locale, "zh_CN"), (pydata_sphinx_theme, "zh")):  # the theme's own come first
        folder = Path(str(package.__file__)).parent
        folder = folder if folder.name == "locale" else folder / "locale"
        catalogue = gettext.translation("sphinx", folder, [language])
        catalogue.add_fallback(words)
        words = catalogue
    return {
        "_": words.gettext,
        "gettext": words.gettext,
        "ngettext": words.ngettext,
        "theme_search_bar_text": words.gettext("Search"),
    }
