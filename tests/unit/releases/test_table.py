"""The table of releases is the one place that tells them apart."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from minicpmv.releases.table import VERSIONS

SOURCE = Path(__file__).parents[3] / "src" / "minicpmv"
NAMES = {written for version in VERSIONS.values() for written in (version.name, *version.also_written, version.model)}
ALLOWED = {"releases/table.py"}


def _docstrings(tree: ast.AST) -> set[ast.AST]:
    """Texts that stand by themselves: docstrings, of attributes as well."""
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}


def _compares_releases(code: str) -> Iterator[str]:
    """Yield what tells releases apart by name: a name as a value, or a row picked from the table."""
    tree = ast.parse(code)
    texts = _docstrings(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node not in texts and node.value in NAMES:
            yield f"line {node.lineno}: the name {node.value!r}"
        if isinstance(node, ast.Subscript) and ast.unparse(node.value).endswith("VERSIONS"):
            yield f"line {node.lineno}: {ast.unparse(node)}"


@pytest.mark.parametrize(
    "code", ['version.name == "2.6"', 'name in ("2.0", "4")', "VERSIONS[name]", 'table.VERSIONS["4.5"]']
)
def test_a_comparison_of_releases_is_found(code: str) -> None:
    assert list(_compares_releases(code))


def test_no_module_but_the_table_compares_releases() -> None:
    found = [
        f"{file.relative_to(SOURCE)}, {what}"
        for file in sorted(SOURCE.rglob("*.py"))
        if file.relative_to(SOURCE).as_posix() not in ALLOWED
        for what in _compares_releases(file.read_text(encoding="utf-8"))
    ]
    assert found == []


def test_every_dotted_name_of_the_table_leads_to_code() -> None:
    from minicpmv.releases.row import find_code

    for version in VERSIONS.values():
        names = (version.reading.dialect, version.reading.tokenizer, version.network.language_model)
        for name in (*names, version.network.tower, version.network.connector):
            assert find_code(name).__module__.startswith(("minicpmv.", "transformers.")), name
