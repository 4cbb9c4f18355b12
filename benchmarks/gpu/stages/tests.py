"""The project's own tests that a GPU changes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from benchmarks.gpu.cases import Case, Finding, Setting, run_python

__all__ = ["cases"]

_SECONDS = 300.0


def cases(setting: Setting) -> list[Case]:
    """List the runs of pytest."""
    marked = ["tests/unit/models/attention/test_varlen.py"] if setting.is_small else ["tests"]
    found = [Case("marked gpu", lambda: _run(setting, ["-m", "gpu", *marked]))]
    if not setting.is_small:
        # Tests see no GPU unless the mark is asked for (`tests/gpus.py`).
        words = ["-x", "-m", "gpu or not slow", "--precision", "bf16", "tests/run/test_resume.py"]
        found.append(Case("going on", lambda: _run(setting, words)))
    return found


def _run(setting: Setting, words: Sequence[str]) -> Iterator[Finding]:
    started = time.perf_counter()
    printed = run_python(["-m", "pytest", "-q", *words], seconds=_SECONDS)
    ran = " passed" in printed[-1] or not setting.is_cuda  # where there is no GPU all of them are skipped
    yield {"holds": ran, "expected": "passes", "said": printed[-1], "seconds": time.perf_counter() - started}
