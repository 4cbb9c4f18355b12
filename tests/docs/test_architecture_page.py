"""The architecture page shows the folders that there are, and they stay small enough to be looked through."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.docs.repository import ROOT

_PACKAGE = ROOT / "src" / "minicpmv"
_FOLDERS = sorted(path.parent for path in _PACKAGE.rglob("__init__.py") if path.parent != _PACKAGE)
_MOST = 14


def _name(folder: Path) -> str:
    return folder.relative_to(_PACKAGE).as_posix()


def test_the_page_has_each_folder_with_the_first_sentence_of_its_docstring() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([\w/]+)` \| (.+) \|$", page.partition("## Rooms")[2].partition("\n## ")[0], re.M))
    stated: dict[str, str] = {}
    for folder in _FOLDERS:
        docstring = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8")))
        assert docstring, folder
        stated[_name(folder)] = docstring.partition("\n")[0].replace("``", "`")
    assert rows == stated


def test_no_folder_has_more_entries_than_can_be_looked_through() -> None:
    """``cli`` has a module for each command."""
    sizes = {
        _name(folder): len([path for path in folder.iterdir() if path.name != "__pycache__"]) for folder in _FOLDERS
    }
    assert {folder: size for folder, size in sizes.items() if size > _MOST and folder != "cli"} == {}


def test_no_two_modules_have_one_name_in_one_folder_and_its_room() -> None:
    """A room with a module of the room's own name says everything twice in each import."""
    doubled = [path for path in _PACKAGE.rglob("*.py") if path.stem == path.parent.name]
    assert doubled == []
