"""Docstrings and messages use plain engineering English, in the folders that have been rewritten."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.repository import ROOT

DONE = (
    "cli",
    "data",
    "demo",
    "devices",
    "estimation",
    "evaluation",
    "export",
    "files",
    "inference",
    "machine",
    "pages",
    "report",
    "serving",
    "show",
    "terminal",
    "ui",
)
"""Folders of ``src/minicpmv``, with those below them. Add one when its English is done."""

ALLOWED: dict[str, str] = {}
"""Files whose strings may hold the words, each with the reason."""

_OPENERS = re.compile(r"(Of|Those|What|Whoever|Whether|It|By|Where|In|How)\b")
_WORDS = re.compile(r"\b(anew|beside|shall|whoever)\b", re.IGNORECASE)


def _files(folder: str) -> list[Path]:
    return sorted((ROOT / "src" / "minicpmv" / folder).rglob("*.py"))


def _docstrings(tree: ast.AST) -> Iterator[ast.Constant]:
    """Yield docstrings of modules, classes and functions."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                yield first.value


@pytest.mark.parametrize("folder", DONE)
def test_no_docstring_opens_without_its_subject(folder: str) -> None:
    opened = [
        f"{path.relative_to(ROOT)}:{found.lineno}: {str(found.value)[:60]}"
        for path in _files(folder)
        for found in _docstrings(ast.parse(path.read_text(encoding="utf-8")))
        if _OPENERS.match(str(found.value))
    ]
    assert opened == []


@pytest.mark.parametrize("folder", DONE)
def test_strings_use_the_common_word(folder: str) -> None:
    """*anew* is again, *beside* is next to or together with, *shall* is must, *whoever* names who it is."""
    used = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {found[0]}"
        for path in _files(folder)
        if path.relative_to(ROOT / "src" / "minicpmv").as_posix() not in ALLOWED
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        for found in [_WORDS.search(node.value)]
        if found
    ]
    assert used == []


def test_allowed_files_need_it() -> None:
    package = ROOT / "src" / "minicpmv"
    assert [name for name in ALLOWED if not _WORDS.search((package / name).read_text(encoding="utf-8"))] == []
