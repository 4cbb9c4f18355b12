"""Runs ``minicpmv explain``: prints what a code in a message about data means, with an example."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from minicpmv.cli.parser import CommandParser
from minicpmv.errors import UsageError

__all__ = ["NAME", "SUMMARY", "run"]

NAME = "explain"
SUMMARY = "explain a code such as D141"

_FAR = 1.5
"""Distance from which a code is not meant: more than one wrong character."""
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
        meant = f"did you mean {near} ({pages[near].title})? " if _distance(code, near) <= _FAR else ""
        raise UsageError(
            f"explain: found {given!r}, expected a code such as D141\n  fix: {meant}`minicpmv explain` lists all codes"
        )
    page = pages[code]
    print(f"{page.code}: {page.title}\n\n{page.text}")
    return 0


def _distance(code: str, known: str) -> float:
    """Return by how many characters and places two codes differ; codes of one digit more or less are near, too."""
    same = sum(block.size for block in difflib.SequenceMatcher(None, code, known, autojunk=False).get_matching_blocks())
    return max(len(code), len(known)) - same + abs(_number(code) - _number(known)) / 1e4


def _number(code: str) -> int:
    return int(code[1:5]) if code[1:5].isdecimal() else 0
