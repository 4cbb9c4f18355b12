"""Runs ``minicpmv explain``: prints what a code in a message about data means, with an example."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from minicpmv.cli.parser import CommandParser
from minicpmv.errors import UsageError

__all__ = ["NAME", "SUMMARY", "run"]

NAME = "explain"
SUMMARY = "explain a code such as D141"

_EXAMPLES = """examples:
  minicpmv explain D141
  minicpmv explain
"""


def run(arguments: Sequence[str]) -> int:
    """Print one code's page, or the list of all codes.

    Raises:
        UsageError: There is no such code.
    """
    parser = CommandParser(
        prog=f"minicpmv {NAME}",
        description="Print what a code in a message about data means, with an example; without a code, list all codes.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("code", metavar="CODE", nargs="?", help="code, as in the brackets of a message")
    given = parser.parse_args(arguments).code
    from minicpmv.data.checks.code_pages import code_pages

    pages = code_pages()
    if given is None:
        print("\n".join(f"{page.code}  {page.title}" for page in pages.values()))
        return 0
    code = given.strip("[] ").upper()
    code = code if code.startswith("D") else f"D{code}"
    if code not in pages:
        near = min(pages, key=lambda known: _distance(code, known))
        known = f"did you mean {near} ({pages[near].title})? `minicpmv explain` lists all codes"
        raise UsageError(f"explain: found {given!r}, expected a code such as D141\n  fix: {known}")
    page = pages[code]
    print(f"{page.code}: {page.title}\n\n{page.text}")
    return 0


def _distance(code: str, known: str) -> float:
    """Return the distance of two codes, by number, or by letters if there is none."""
    if code[1:].isdecimal():
        return abs(int(code[1:10]) - int(known[1:]))
    return 1 - difflib.SequenceMatcher(None, code, known).ratio()
