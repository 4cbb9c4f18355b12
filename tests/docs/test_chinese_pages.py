"""The Chinese pages hold the same commands, flags, codes and examples as the English ones."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from minicpmv.data.checks.code_pages import code_pages
from tests.docs.repository import ROOT, code_blocks

FOLDER = ROOT / "docs" / "zh"
PAIRS = {"README.md": "README.md", "start.md": "docs/start.md", "data.md": "docs/data.md"}
"""English originals of the pages that have one. The page of codes has its own test."""

_COMPARED = {
    "flags": re.compile(r"(?<![\w-])--[a-z][\w-]*"),
    "codes": re.compile(r"\bD\d{3}\b"),
    "variables": re.compile(r"`([A-Z][A-Z_]{3,})`"),
    "commands": re.compile(r"\bminicpmv ([a-z]+)\b"),
}


def test_every_chinese_page_is_compared() -> None:
    assert {path.name for path in FOLDER.glob("*.md")} == {*PAIRS, "codes.md"}


@pytest.mark.parametrize("kind", _COMPARED)
@pytest.mark.parametrize("name", PAIRS)
def test_both_languages_name_the_same(name: str, kind: str) -> None:
    found = [
        {
            match.groups()[0] if match.groups() else match[0]
            for match in _COMPARED[kind].finditer(path.read_text("utf-8"))
        }
        for path in (FOLDER / name, ROOT / PAIRS[name])
    ]
    assert found[0] == found[1]


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("language", ["", "shell", "json", "jsonl", "csv", "yaml", "python", "text"])
def test_both_languages_show_the_same_examples(name: str, language: str) -> None:
    """In the same order; comments may be translated."""
    chinese, english = (
        [re.sub(r"  # .*", "", block) for block in code_blocks(path, language)]
        for path in (FOLDER / name, ROOT / PAIRS[name])
    )
    assert chinese == english


@pytest.mark.parametrize("name", PAIRS)
def test_both_languages_have_the_same_sections(name: str) -> None:
    levels = [re.findall(r"^(#+) ", _without_code(path), re.MULTILINE) for path in (FOLDER / name, ROOT / PAIRS[name])]
    assert levels[0] == levels[1]


def _without_code(path: Path) -> str:
    return re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def test_every_code_has_its_line_in_chinese_with_a_link_to_its_section() -> None:
    text = (FOLDER / "codes.md").read_text(encoding="utf-8")
    lines = re.findall(r"^\| \[(D\d{3})\]\(\S+codes\.md#(d\d{3})-\S+\) \| ([^|]+) \| ([^|]+) \|$", text, re.MULTILINE)
    assert [code for code, *_ in lines] == list(code_pages())
    for code, anchor, meaning, remedy in lines:
        assert anchor == code.lower()
        assert re.search(r"[\u4e00-\u9fff]", meaning), code
        assert re.search(r"[\u4e00-\u9fff]", remedy), code
