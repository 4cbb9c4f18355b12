"""Keeps how films are shown to a model the same wherever the model is used: whatever is saved states it.

A run can choose other numbers than the release's: frames a second, most frames, most tiles of a frame. They are written
into ``preprocessor_config.json``, and beside an adapter's base, and read with the processor.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from minicpmv.files.atomic_files import write_json

__all__ = ["FILM_FIELDS", "film_options", "film_settings_of", "state_film_settings"]

FILM_FIELDS = ("video_fps", "max_frames", "video_max_slice_nums")
"""Fields of ``preprocessor_config.json``, and flags of training."""


def film_options(**chosen: Any) -> dict[str, Any]:
    """Return the options of ``from_pretrained`` that show films as chosen; None for a setting is the file's own."""
    assert chosen.keys() <= {*FILM_FIELDS}
    return {name: value for name, value in chosen.items() if value is not None}


def film_settings_of(image_processor: Any) -> dict[str, Any]:
    """Return how a processor shows films, where it is not just as the release is fed."""
    return film_options(**{name: getattr(image_processor, name) for name in FILM_FIELDS})


def state_film_settings(directory: Path, settings: dict[str, Any]) -> None:
    """Write settings into ``preprocessor_config.json`` of a saved checkpoint, if it has one.

    Args:
        directory: The checkpoint's.
        settings: From :func:`film_settings_of`.
    """
    file = directory / "preprocessor_config.json"
    if settings and file.is_file():
        write_json(file, json.loads(file.read_text(encoding="utf-8")) | settings)
