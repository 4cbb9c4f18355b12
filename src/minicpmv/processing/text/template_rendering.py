"""Renders a chat template that somebody else wrote, by ``template_child`` in a process with limits."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from minicpmv.files.posix import HAS_LIMITS, refuse_windows
from minicpmv.releases.json_bounds import quote

__all__ = ["describe_difference", "render_cases"]

_SECONDS = 30.0
"""For all renderings; each is a few hundred characters."""
_AROUND = 40
"""Characters shown of a difference."""


def render_cases(
    template: str, cases: Sequence[tuple[Sequence[Mapping[str, Any]], Mapping[str, Any]]], tokens: Mapping[str, str]
) -> list[dict[str, str]]:
    """Render a template for each case.

    Args:
        template: In Jinja's language.
        cases: Messages, and what else the template is given.
        tokens: Special tokens by the tokenizer's name for each, such as ``eos_token``.

    Returns:
        For each case ``text``, or ``error`` where it cannot be rendered.
    """
    if not HAS_LIMITS:
        refuse_windows("a chat template of somebody else's, which is rendered in a process with limits")
    given = {"template": template, "cases": list(cases), "tokens": tokens}
    program = Path(__file__).with_name("template_child.py")
    try:
        done = subprocess.run(
            [sys.executable, "-I", str(program)],
            input=json.dumps(given),
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            env={},
            check=False,
        )
    except subprocess.TimeoutExpired:
        return [{"error": f"it takes more than {_SECONDS:.0f} s"} for _ in cases]
    if done.returncode:
        why = f"its process ended with {done.returncode}: time or memory ran out"
        return [{"error": why} for _ in cases]
    return json.loads(done.stdout)


def describe_difference(ours: str, theirs: str) -> str:
    """Show where two texts part."""
    start = next((at for at, pair in enumerate(zip(ours, theirs, strict=False)) if len(set(pair)) > 1), None)
    at = min(len(ours), len(theirs)) if start is None else start
    shown = (text[max(at - _AROUND, 0) : at + _AROUND] for text in (ours, theirs))
    here, there = (quote(text) if text else "nothing" for text in shown)
    return f"from character {at} on, this package writes {here}, the template {there}"
