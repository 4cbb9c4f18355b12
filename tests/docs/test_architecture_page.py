"""The architecture page names what there is."""

from __future__ import annotations

import re

import pytest

from tests.docs.repository import ROOT


@pytest.mark.parametrize(
    ("part", "unnamed"),
    [("training", {"run"}), ("inference", set()), ("serving", set()), ("ui", set()), ("export", set())],
)
def test_every_module_of_a_large_part_has_its_place(part: str, unnamed: set[str]) -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = text.partition(f"## Inside {part}")[2].partition("## ")[0]
    named = re.findall(r"`(\w+)`", table.partition("|---|---|")[2])
    modules = {path.stem for path in (ROOT / "src/minicpmv" / part).glob("[!_]*.py")} - unnamed
    assert sorted(named) == sorted(modules)
