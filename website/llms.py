"""Writes ``llms.txt``: what the project is, and every page with one sentence, in the form of https://llmstxt.org.

The links lead to the pages' Markdown, which lies next to the HTML.
"""

from __future__ import annotations

import re

from website.navigation import HOME, SECTIONS
from website.staging import ROOT, page_addresses

__all__ = ["llms_text"]


def llms_text() -> str:
    """Return the file's text."""
    addresses = page_addresses()
    home = (ROOT / HOME).read_text(encoding="utf-8")
    title, *paragraphs = (part.strip() for part in home.split("\n\n"))
    summary = next(part for part in paragraphs if not part.startswith("["))  # not the link to the other language
    parts = [title, "> " + " ".join(summary.split())]
    for section in SECTIONS:
        rows: list[str] = []
        for page in section.pages:
            place = f"{section.folder}/{page.source}" if page.is_generated else addresses[page.source]
            rows.append(f"- [{page.label or _heading(page.source)}]({place}): {page.about}")
        parts += [f"## {section.title}", "\n".join(rows)]
    return "\n\n".join(parts) + "\n"


def _heading(source: str) -> str:
    """Return a page's first heading; of a generated page its name in words."""
    file = ROOT / source
    if not file.is_file():
        return source.removesuffix(".md").replace("_", " ").capitalize()
    found = re.search(r"^# (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
    return found[1].replace("`", "") if found else source
