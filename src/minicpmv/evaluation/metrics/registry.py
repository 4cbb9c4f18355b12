"""Finds metrics by name: those of this package, and those that other packages offer.

Another package offers one by an entry point of the group ``minicpmv.metrics`` whose object is a subclass of ``Metric``.
Only the requested ones are imported.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from minicpmv.errors import UsageError
from minicpmv.evaluation.metrics.base import Metric
from minicpmv.wording import suggest

__all__ = ["BUILT_IN", "describe_metrics", "find_metrics", "known_names", "split_names"]

GROUP = "minicpmv.metrics"

BUILT_IN = {
    "exact_match": "matches:ExactMatch",
    "normalized_match": "matches:NormalizedMatch",
    "choice_accuracy": "matches:ChoiceAccuracy",
    "vqa_accuracy": "vqa:VQAAccuracy",
    "anls": "documents:ANLS",
    "relaxed_accuracy": "documents:RelaxedAccuracy",
    "cer": "transcription:CharacterErrorRate",
    "wer": "transcription:WordErrorRate",
    "bleu": "translation:BLEU",
    "bleu_zh": "translation:ChineseBLEU",
    "chrf": "translation:ChrF",
    "rouge_l": "captions:RougeL",
    "cider": "captions:CIDEr",
    "box_iou": "grounding:BoxIoU",
    "box_accuracy": "grounding:BoxAccuracy",
    "click_accuracy": "grounding:ClickAccuracy",
    "json_valid": "extraction:JSONValid",
    "json_field_accuracy": "extraction:JSONFieldAccuracy",
    "loss": "likelihood:Loss",
    "perplexity": "likelihood:Perplexity",
}


def split_names(written: str) -> list[str]:
    """Split comma-separated names, dropping repeated ones."""
    return list(dict.fromkeys(name.strip() for name in written.split(",") if name.strip()))


def known_names() -> list[str]:
    """Name all available metrics, this package's first."""
    return [*BUILT_IN, *sorted(_offered().keys() - BUILT_IN.keys())]


def describe_metrics() -> list[tuple[str, str]]:
    """Return every metric's name and description, which imports those of other packages.

    Raises:
        UsageError: A package offers something that is not a metric.
    """
    return [(name, _class_of(name, "--metrics").description) for name in known_names()]


def find_metrics(names: Sequence[str], *, flag: str = "--metrics") -> list[Metric]:
    """Make the metrics of these names, in that order.

    Args:
        names: Distinct names.
        flag: The flag that they came from.

    Raises:
        UsageError: There is no such metric, two packages offer one of that name, or a package offers something else.
        ConfigError: A package that the metric needs is not installed.
    """
    if not names:
        raise UsageError(f"{flag}: found no name, expected some of {', '.join(known_names())}\n  fix: add one")
    return [_class_of(name, flag)() for name in names]


def _offered() -> dict[str, list[EntryPoint]]:
    offered: dict[str, list[EntryPoint]] = {}
    for entry in entry_points(group=GROUP):
        offered.setdefault(entry.name, []).append(entry)
    return offered


def _class_of(name: str, flag: str) -> type[Metric]:
    offered = _offered().get(name, [])
    sources = [entry.value for entry in offered] + (["minicpmv"] if name in BUILT_IN else [])
    if len(set(sources)) > 1:
        raise UsageError(
            f"{flag} {name}: found it in {' and '.join(sorted(set(sources)))}, expected one metric of that name\n"
            "  fix: uninstall one of the packages, or rename its entry point"
        )
    if name in BUILT_IN:
        module, _, made = BUILT_IN[name].partition(":")
        return getattr(importlib.import_module(f"minicpmv.evaluation.metrics.{module}"), made)
    if offered:
        return _load(offered[0], flag)
    raise UsageError(
        f"{flag}: found {name!r}, expected some of {', '.join(known_names())}\n"
        f"  fix: {suggest(name, known_names(), otherwise='choose some of them, such as --metrics exact_match')}"
    )


def _load(entry: EntryPoint, flag: str) -> type[Metric]:
    try:
        made: Any = entry.load()
    except (ImportError, AttributeError) as error:
        raise UsageError(
            f"{flag} {entry.name}: found {entry.value}, which cannot be imported ({error}), expected a class that can\n"
            "  fix: repair the package that offers it"
        ) from error
    if not (isinstance(made, type) and issubclass(made, Metric) and getattr(made, "name", None) == entry.name):
        raise UsageError(
            f"{flag} {entry.name}: found {entry.value}, expected a subclass of minicpmv.evaluation.metrics.base.Metric "
            f"whose name is {entry.name!r}\n  fix: repair the package that offers it"
        )
    return made
