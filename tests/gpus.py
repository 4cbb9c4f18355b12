"""Hides a machine's GPUs from the tests, which are for a processor, unless those marked ``gpu`` are asked for."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Container

from _pytest.mark.expression import Expression

__all__ = ["asks_for_gpus", "hide_gpus"]

# What each maker's runtime reads. "-1" and not "": AMD's takes an empty list for none given. Apple's GPU cannot be
# hidden so, and commands refuse it (`machine/support.py`).
_VARIABLES = {
    "CUDA_VISIBLE_DEVICES": "",
    "HIP_VISIBLE_DEVICES": "-1",
    "ASCEND_RT_VISIBLE_DEVICES": "",
}


def asks_for_gpus(expression: str) -> bool:
    """Say whether ``pytest -m`` with this expression selects tests because they are marked ``gpu``.

    ``gpu and not slow`` does. ``not slow`` selects such tests as it does all others, and asks for no GPU.
    """
    if not expression:
        return False
    others = sorted(set(re.findall(r"\w+", expression)) - {"gpu"})
    choices = itertools.product((False, True), repeat=len(others))
    sets = [set(itertools.compress(others, chosen)) for chosen in choices]
    try:
        return any(_selects(expression, marks | {"gpu"}) and not _selects(expression, marks) for marks in sets)
    except SyntaxError:  # pytest says what is wrong with it
        return False


def hide_gpus() -> None:
    """Let neither this process nor those that it starts see a GPU. It must not have looked for one yet."""
    os.environ.update(_VARIABLES)


def _selects(expression: str, marks: Container[str]) -> bool:
    return Expression.compile(expression).evaluate(lambda name, /, **values: name in marks)
