"""Names the tasks that there are recipes for, without what composing one needs."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["TASKS"]

TASKS: Mapping[str, str] = {
    "caption": "captions of pictures",
    "vqa": "questions about pictures with short answers",
    "ocr": "reading text",
    "fields": "fields of documents as JSON",
    "grounding": "boxes around what is named",
    "gui": "where to click on a screen",
    "film": "questions about films",
    "preference": "better and worse answers",
}
"""Each task with what it is; the settings of each are in ``assets``."""
