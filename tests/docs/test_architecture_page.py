"""The architecture page names what there is."""

from __future__ import annotations

import re

from tests.docs.repository import ROOT


def test_every_module_of_training_has_its_place() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = text.partition("## Inside training")[2].partition("## ")[0]
    named = re.findall(r"`(\w+)`", table.partition("|---|---|")[2])
    modules = {path.stem for path in (ROOT / "src/minicpmv/training").glob("[!_]*.py")} - {"run", "json_files"}
    assert sorted(named) == sorted(modules)
