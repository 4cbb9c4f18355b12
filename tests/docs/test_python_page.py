"""The code of docs/python.md runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from minicpmv.demo.build import build_demo
from tests.docs.repository import ROOT
from tests.run.prepared import own_interpreter_prepared

_PAGE = (ROOT / "docs/python.md").read_text(encoding="utf-8")
_BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)


@pytest.mark.long
def test_code_of_the_page_runs_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    build_demo("output/demo")
    names: dict[str, Any] = {}
    with own_interpreter_prepared():
        for found in _BLOCK.finditer(_PAGE):
            line = _PAGE.count("\n", 0, found.start(1))
            exec(compile("\n" * line + found[1], str(ROOT / "docs/python.md"), "exec"), names)
    assert names["run"].status == "finished"
    assert len(names["losses"]) > 5
    learned = [entry for entry in names["again"].metrics if entry.get("learning_rate")]
    assert len(learned) > 5, "a step of warm-up, at a rate of 0, is not all that an example shows"
    assert len(names["Watch"].norms) == 10
