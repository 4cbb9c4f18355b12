"""Docstrings name arguments that exist. They need not name all: they say what the types cannot."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.repository import ROOT

_MODULES = sorted((ROOT / "src/minicpmv").rglob("*.py"))
_ARGS = re.compile(r"^Args:\n((?: +.*\n?|\n)+)", re.MULTILINE)


def _documented(docstring: str) -> list[str]:
    section = _ARGS.search(docstring + "\n")
    return re.findall(r"^    \*{0,2}(\w+)(?: \([^)]*\))?:", section.group(1), re.MULTILINE) if section else []


def _functions(tree: ast.AST) -> Iterator[tuple[ast.FunctionDef | ast.AsyncFunctionDef, str]]:
    """Yield every function with the docstring about its arguments; a class may describe those of its ``__init__``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node, ast.get_docstring(node) or ""
        elif isinstance(node, ast.ClassDef):
            for member in node.body:
                if isinstance(member, ast.FunctionDef) and member.name == "__init__":
                    yield member, ast.get_docstring(node) or ""


@pytest.mark.parametrize("module", _MODULES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_documented_arguments_exist(module: Path) -> None:
    unknown = []
    for function, docstring in _functions(ast.parse(module.read_text(encoding="utf-8"))):
        parameters = function.args
        known = [*parameters.posonlyargs, *parameters.args, *parameters.kwonlyargs, parameters.vararg, parameters.kwarg]
        names = {parameter.arg for parameter in known if parameter is not None}
        unknown += [f"{function.name}: {name}" for name in _documented(docstring) if name not in names]
    assert unknown == []
