"""The notebooks run from top to bottom, in a Jupyter kernel, with fewer steps and pictures than they state."""

from __future__ import annotations

import os
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.docs.repository import ROOT

__all__ = ["read_shortened"]

_NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
_SMALLER = ((r"^steps = \d+", "steps = 2"), (r"^measured = \d+", "measured = 4"))


def read_shortened(notebook: Path) -> nbformat.NotebookNode:
    """Return a notebook that takes fewer steps and measures fewer pictures than it states."""
    content = nbformat.read(notebook, as_version=4)
    for cell in content.cells:
        for stated, fewer in _SMALLER:
            cell.source = re.sub(stated, fewer, cell.source, flags=re.MULTILINE)
    return content


@pytest.mark.parametrize("notebook", _NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_stored_without_outputs_and_its_steps_can_be_made_fewer(notebook: Path) -> None:
    content = nbformat.read(notebook, as_version=4)
    nbformat.validate(content)
    code = [cell for cell in content.cells if cell.cell_type == "code"]
    assert [cell for cell in code if cell.outputs or cell.execution_count is not None] == []
    assert any(re.search(_SMALLER[0][0], cell.source, re.MULTILINE) for cell in code)
    for cell in code:
        compile(cell.source, notebook.name, "exec")


@pytest.mark.long
@pytest.mark.parametrize(
    "notebook",
    [
        _NOTEBOOKS[0],
        *(pytest.param(path, marks=pytest.mark.slow) for path in _NOTEBOOKS[1:]),  # as the first, with other data
    ],
    ids=lambda path: path.stem,
)
def test_notebook_runs_from_top_to_bottom(notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")  # what jupyter_core would otherwise warn about
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]))
    NotebookClient(
        read_shortened(notebook), timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    reports = [path.relative_to(tmp_path).as_posix() for path in tmp_path.glob("output/*/report.html")]
    assert reports
