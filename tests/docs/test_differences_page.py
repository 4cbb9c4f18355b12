"""docs/differences.md: every difference names a test that shows it, and those tests exist."""

from __future__ import annotations

import re

from tests.docs.repository import ROOT

PAGE = (ROOT / "docs" / "differences.md").read_text(encoding="utf-8")
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)


def test_named_tests_exist() -> None:
    missing = [
        f"{file}::{name}"
        for file, name in NAMED
        if not (ROOT / file).is_file() or f"def {name}(" not in (ROOT / file).read_text(encoding="utf-8")
    ]
    assert len(NAMED) > 20
    assert missing == []


def test_every_difference_names_its_test() -> None:
    differences = [paragraph for paragraph in PAGE.split("\n\n") if paragraph.startswith("**")]
    assert len(differences) > 20
    assert [text[:60] for text in differences if not re.search(r"`tests/[\w/]+\.py::\w+`", text)] == []
