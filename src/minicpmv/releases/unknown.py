"""Says of a checkpoint that no row fits what was found in it, which row is nearest, and what a new row needs.

It only words a message: nothing is loaded by a row that is merely near.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from minicpmv.releases.row import Version

__all__ = ["describe_unknown", "find_nearest"]

_MOST_SHOWN = 60
_NUMBER = re.compile(r"(\d+)[._]?(\d*)")


def describe_unknown(config: Mapping[str, Any], rows: Iterable[Version]) -> str:
    """Word what helps to add the release of a ``config.json``; ends a fix.

    Args:
        config: The fields, of any model.
        rows: The table's.
    """
    rows = list(rows)
    nearest = find_nearest(config, rows)
    if nearest is None:
        return "use a checkpoint of a supported release, or a newer minicpmv-finetune"
    network = nearest.network
    missing = [field for field in network.needed_fields if field not in config]
    unlike = [f"without its field{'s' * (len(missing) > 1)} {', '.join(missing)}"] if missing else []
    if network.model_type != config.get("model_type"):
        unlike.append(f"whose model_type is {network.model_type}")
    beside = f" ({', '.join(unlike)})" if unlike else ""
    return (
        "use a checkpoint of a supported release, or a newer minicpmv-finetune\n"
        f"  found: {_describe(config)}\n"
        f"  nearest: {nearest.model}, row {nearest.name!r}{beside}; its language model is "
        f"{network.language_model.partition(':')[2]}\n"
        "  to add it: a row of src/minicpmv/releases/table.py needs its name, model_type, language model, tower and "
        "connector, how a conversation is written, the tokens around pictures and the defaults of its chat(); "
        "docs/new_release.md goes through it"
    )


def find_nearest(config: Mapping[str, Any], rows: Iterable[Version]) -> Version | None:
    """Return the row whose release is nearest by family and number; None of a model that is no MiniCPM."""
    kind = str(config.get("model_type", ""))
    if not kind.lower().startswith("minicpm"):
        return None
    number = _number_of(config.get("version"))
    number = _number_of(kind) if number is None else number
    family = _family_of(kind)

    def distance(row: Version) -> tuple[bool, bool, float]:
        own = _number_of(row.name)
        gap = 0.0 if own is None else abs(own - (number if number is not None else float("inf")))
        return _family_of(row.network.model_type) != family, row.network.model_type != kind, gap

    # The newest of those that are equally near: a later release is more like the last one than like the first.
    return min(reversed(list(rows)), key=distance, default=None)


def _family_of(kind: str) -> str:
    """``minicpmv`` of ``minicpmv4_6``."""
    return re.match(r"[a-z]*", kind.lower())[0]  # pyright: ignore[reportOptionalSubscript]  it matches nothing, too


def _number_of(stated: object) -> float | None:
    found = _NUMBER.search(str(stated)) if stated is not None else None
    return None if found is None else float(f"{found[1]}.{found[2] or 0}")


def _describe(config: Mapping[str, Any]) -> str:
    text = config.get("text_config")
    named: dict[str, object] = {
        "model_type": config.get("model_type"),
        "version": config.get("version"),
        "architectures": config.get("architectures"),
        "text_config.model_type": text.get("model_type") if isinstance(text, Mapping) else None,
        "hidden_size": config.get("hidden_size"),
        "query_num": config.get("query_num"),
        "objects": sorted(key for key, value in config.items() if isinstance(value, Mapping)) or None,
    }
    return ", ".join(f"{key} {_short(value)}" for key, value in named.items() if value is not None)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."
