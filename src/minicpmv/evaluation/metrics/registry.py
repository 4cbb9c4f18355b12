"""Finds metrics by name: those of this package, and those that other packages offer.

Another package offers one by an entry point of the group ``minicpmv.metrics`` whose object is a subclass of ``Metric``.
Only the requested ones are imported. A name may stand for several metrics that are read together, and a metric may take
a file, written behind its name: ``chair:objects.txt``.
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from minicpmv.errors import UsageError
from minicpmv.evaluation.metrics.base import Metric
from minicpmv.wording import suggest

__all__ = [
    "BUILT_IN",
    "FAMILIES",
    "class_of",
    "describe_metrics",
    "find_metrics",
    "known_names",
    "name_of",
    "split_names",
]

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
    "json_invented": "extraction:JSONInvented",
    "json_missed": "extraction:JSONMissed",
    "yes_no_accuracy": "hallucination:YesNoAccuracy",
    "yes_no_precision": "hallucination:YesNoPrecision",
    "yes_no_recall": "hallucination:YesNoRecall",
    "yes_no_f1": "hallucination:YesNoF1",
    "yes_no_share": "hallucination:YesShare",
    "yes_no_neither": "hallucination:YesNoNeither",
    "chair_i": "hallucination:ObjectShare",
    "chair_s": "hallucination:SentenceShare",
    "loss": "likelihood:Loss",
    "perplexity": "likelihood:Perplexity",
}
FAMILIES = {family: [name for name in BUILT_IN if name.startswith(f"{family}_")] for family in ("yes_no", "chair")}
"""Names that stand for several metrics."""


def split_names(written: str) -> list[str]:
    """Split comma-separated names, dropping repeated ones; the name of a family becomes those of its metrics.

    >>> split_names("anls, chair:objects.txt, anls")
    ['anls', 'chair_i:objects.txt', 'chair_s:objects.txt']
    """
    names: list[str] = []
    for each in filter(None, map(str.strip, written.split(","))):
        name, *file = each.split(":", 1)
        names += [":".join([member, *file]) for member in FAMILIES.get(name, [name])]
    return list(dict.fromkeys(names))


def name_of(written: str) -> str:
    """Return a metric's name without its file."""
    return written.partition(":")[0]


def known_names() -> list[str]:
    """Name all available metrics, this package's first."""
    return [*BUILT_IN, *sorted(_offered().keys() - BUILT_IN.keys())]


def describe_metrics() -> list[tuple[str, str]]:
    """Return every metric's name and description, which imports those of other packages; families come last.

    Raises:
        UsageError: A package offers something that is not a metric.
    """
    described = [(name, class_of(name, "--metrics").description) for name in known_names()]
    return described + [(family, f"all of {', '.join(names)}") for family, names in FAMILIES.items()]


def find_metrics(names: Sequence[str], *, flag: str = "--metrics") -> list[Metric]:
    """Make the metrics of these names, in that order.

    Args:
        names: Distinct names, from ``split_names``.
        flag: The flag that they came from.

    Raises:
        UsageError: There is no such metric, two packages offer one of that name, a package offers something else, or a
            file behind a name cannot be read, or is given twice or to a metric that takes none.
        ConfigError: A package that the metric needs is not installed.
    """
    if not names:
        raise UsageError(f"{flag}: found no name, expected some of {', '.join(known_names())}\n  fix: add one")
    twice = [name for name, count in Counter(map(name_of, names)).items() if count > 1]
    if twice:
        raise UsageError(f"{flag}: found {twice[0]} with several files, expected one\n  fix: choose one of the files")
    return [_make(written, flag) for written in names]


def _make(written: str, flag: str) -> Metric:
    name, _, file = written.partition(":")
    metric = class_of(name, flag)()
    if ":" not in written:
        return metric
    if not metric.takes_file:
        raise UsageError(
            f"{flag}: found a file behind {name} ({file!r}), which takes none, expected the name alone\n"
            f"  fix: write {name}"
        )
    try:
        metric.read_file(Path(file))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise UsageError(
            f"{flag} {written}: found no file that can be read ({reason}), expected {metric.takes_file}\n"
            "  fix: name such a file"
        ) from error
    return metric


def _offered() -> dict[str, list[EntryPoint]]:
    offered: dict[str, list[EntryPoint]] = {}
    for entry in entry_points(group=GROUP):
        offered.setdefault(entry.name, []).append(entry)
    return offered


def class_of(name: str, flag: str = "--metrics") -> type[Metric]:
    """Return the class of a metric, which need not be one that can be made here.

    Args:
        name: Its name, without a file.
        flag: The flag that it came from.

    Raises:
        UsageError: There is no such metric, two packages offer one of that name, or a package offers something else.
    """
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
        f"  fix: {suggest(name, known_names(), otherwise='choose some of these')}"
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
