"""Reads the page that explains every code, ``assets/codes.md``, which the documentation links to."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

__all__ = ["CodePage", "code_pages"]

_PAGE = Path(__file__).parent / "assets" / "codes.md"
_SECTION = re.compile(
    r"^### (?P<code>D\d{3}): (?P<title>[^\n]+)\n(?P<text>.*?)(?=^#{1,3} |\Z)", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True, slots=True)
class CodePage:
    """Holds one code's section."""

    code: str
    title: str
    text: str
    """Text in Markdown, without the heading."""


@lru_cache
def code_pages() -> dict[str, CodePage]:
    """Return the section of every code, in the page's order."""
    found = _SECTION.finditer(_PAGE.read_text(encoding="utf-8"))
    return {match["code"]: CodePage(match["code"], match["title"], match["text"].strip()) for match in found}
