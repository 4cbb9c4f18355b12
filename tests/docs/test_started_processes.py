"""A process that a test starts and no longer waits for would run for ever, such as a training of many steps."""

from __future__ import annotations

import ast

from tests.docs.repository import ROOT

_WITHOUT = {
    "tests/processes.py": "`started` itself",
    "tests/hostile/reading.py": "lives longer than a block, and ends when whoever asks it ends: it reads its input",
}


def _starts(source: str) -> list[int]:
    """Return the lines that call ``Popen``."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [call.lineno for call in calls if ast.unparse(call.func).rpartition(".")[2] == "Popen"]


def test_processes_of_tests_end_with_a_block() -> None:
    """By ``tests.processes.started``; ``subprocess.run`` ends what it starts."""
    found = {
        str(path.relative_to(ROOT)): lines
        for path in sorted(ROOT.glob("tests/**/*.py"))
        if "Popen" in (source := path.read_text(encoding="utf-8")) and (lines := _starts(source))
    }
    assert found.keys() == _WITHOUT.keys(), found
