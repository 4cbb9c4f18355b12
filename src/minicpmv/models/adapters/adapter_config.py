"""Reads an adapter's ``adapter_config.json``, and makes sure that its patterns end.

PEFT matches patterns of the file with the name of every module, by an engine that backtracks: a few characters can
keep it busy for years. Which patterns do cannot be told from their look, so they are tried on the names in a process
that may be ended.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from minicpmv.errors import CheckpointError
from minicpmv.releases.json_bounds import quote
from minicpmv.releases.model_files import check_adapter_config, read_object

__all__ = ["ADAPTER_CONFIG", "check_patterns_end", "read_adapter_config"]

ADAPTER_CONFIG = "adapter_config.json"
_FIX = "restore the file, or train again"
_SECONDS = 10.0
"""For all patterns of an adapter. Sound ones take milliseconds."""
_SPECIAL = set("*+?{|(")
"""Without one of these a pattern takes one look at each character."""
_AROUND = {
    "target_modules": "{}",
    "exclude_modules": "{}",
    "rank_pattern": r"(.*\.)?({})$",
    "alpha_pattern": r"(.*\.)?({})$",
    "modules_to_save": r"(^|.*\.){}($|\..*)",
    "layers_pattern": r"(?:^|.*?\.){}\.(?P<idx>\d+)\.",
}
"""What PEFT makes of the pattern of each key."""
_TRY = """
import json, re, sys
patterns, names = json.load(sys.stdin)
for place, pattern in patterns:
    print(json.dumps(place), flush=True)
    for name in names:
        re.match(pattern, name)
        re.fullmatch(pattern, name)
print(flush=True)
"""


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """Read what an adapter's directory says of it.

    Raises:
        CheckpointError: The file is missing or broken, or a value in it is out of its bounds.
    """
    file = folder / ADAPTER_CONFIG
    content = read_object(file, expected="what PEFT wrote", fix=_FIX)
    check_adapter_config(content, file)
    return content


def check_patterns_end(config: Mapping[str, Any], names: Iterable[str], where: object) -> None:
    """Make sure that every pattern of an adapter can be matched with the names of a model's modules.

    Args:
        config: What ``adapter_config.json`` holds; its values are sound.
        names: The modules'.
        where: The file, for the message.

    Raises:
        CheckpointError: One is no pattern, or takes too long.
    """
    patterns = [
        (key, around.replace("{}", pattern))
        for key, around in _AROUND.items()
        for pattern in _patterns(key, config.get(key))
        if _SPECIAL & set(pattern)
    ]
    if not patterns:
        return
    given = json.dumps([patterns, list(names)])
    try:
        # Isolated: it needs the standard library alone, and starts in a few milliseconds.
        tried = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _TRY],
            input=given, capture_output=True, text=True, encoding="utf-8", timeout=_SECONDS, check=False,
        )  # fmt: skip
        said, error = tried.stdout, tried.stderr.strip().splitlines()[-1:]
    except subprocess.TimeoutExpired as expired:
        said = (expired.stdout or b"").decode() if isinstance(expired.stdout, bytes) else expired.stdout or ""
        error = [f"no answer within {_SECONDS:g} seconds"]
    lines = said.splitlines()
    if lines and not lines[-1]:
        return
    key = json.loads(lines[-1]) if lines else patterns[0][0]
    raise CheckpointError(
        f"{where}: {key}: found {quote(config.get(key))}, a pattern that cannot be matched with the names of the "
        f"model's modules ({''.join(error)}), expected one that can\n  fix: {_FIX}"
    )


def _patterns(key: str, value: Any) -> list[str]:
    if value is None:
        return []
    if isinstance(value, str):
        return [value]
    # A list of targets holds names, which PEFT compares as they are.
    return [] if key in ("target_modules", "exclude_modules") else list(value)
