"""Refuses tokenizers whose regular expressions could take for ever on a text.

``tokenizer.json`` may hold patterns by which text is split or normalised. They run on every text, in an engine that
backtracks and cannot be interrupted. Released ones repeat single characters and classes; a group that is repeated, or
many repetitions in a row, is what makes matching explode, and no released tokenizer has either.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from minicpmv.errors import CheckpointError
from minicpmv.releases.json_bounds import quote

__all__ = ["check_patterns"]

_MOST_CHARACTERS = 2000
_MOST_REPEATED = 5
"""Repetitions in one alternative; the released ones have three."""
_MOST_GROUPS = 8
_NEUTRAL = re.compile(r"\\[pP]\{[^}]*\}|\\.|\[\^?\]?(?:\\[pP]\{[^}]*\}|\\.|[^\]\\])*\]", re.DOTALL)
"""What is one character of a text: an escape, or a class without others inside."""
_REPEATED_GROUP = re.compile(r"\)\s*(?:[*+]|\{)")
_REPEATED = re.compile(r"[*+?]|\{\d*,?\d*\}")
_SPECIAL = re.compile(r"\(\?(?:<?[=!]|[a-z-]*:)|\(\?[a-z-]+\)")
"""How a group begins that is no plain one: looking ahead or back, or with flags."""


def check_patterns(tokenizer: Any, where: object) -> None:
    """Make sure that matching takes no longer than the text is long, or a small power of it.

    Args:
        tokenizer: Of the package ``tokenizers``.
        where: Its directory, for the message.

    Raises:
        CheckpointError: A pattern may take longer.
    """
    for part in ("normalizer", "pre_tokenizer", "decoder"):
        component = getattr(tokenizer, part)
        if component is None:
            continue
        for pattern in _patterns_in(json.loads(component.__getstate__())):
            fault = _fault(pattern)
            if fault:
                raise CheckpointError(
                    f"{where}: tokenizer.json: {part}: found the pattern {quote(pattern)} with {fault}, expected one "
                    "that cannot take for ever on a text\n  fix: use the tokenizer that was released with the weights"
                )


def _patterns_in(value: Any) -> Iterator[str]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        if key == "Regex" and isinstance(item, str):
            yield item
        else:
            yield from _patterns_in(item)


def _fault(pattern: str) -> str | None:
    if len(pattern) > _MOST_CHARACTERS:
        return f"{len(pattern):,} characters"
    bare = _SPECIAL.sub("(", _NEUTRAL.sub("x", pattern))
    if "[" in bare or "(?" in bare or "&&" in bare or re.search(r"\\[1-9kg]", pattern):
        return "nested classes, named groups or references"
    if _REPEATED_GROUP.search(bare):
        return "a group that is repeated"
    if bare.count("(") > _MOST_GROUPS:
        return f"more than {_MOST_GROUPS} groups"
    if any(len(_REPEATED.findall(alternative)) > _MOST_REPEATED for alternative in bare.split("|")):
        return f"more than {_MOST_REPEATED} repetitions in a row"
    return None
