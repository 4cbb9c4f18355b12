"""Holds a walk against what is promised of the GPU path: one function for each promise returns what breaks it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from minicpmv.releases.table import VERSIONS
from tests.gpu_walk.report import Crossing, Report

__all__ = ["CLAIMS", "broken"]

_TRAINING = ("batch", "forward", "backward", "update")
_MOST_BYTES = 10**6
_PREFILL = re.compile(r"minicpmv/models/networks/(layout\.py:\d+ read|positions\.py:\d+ _find_axis)$")
"""Where an answer begins, its prompt's layout is read from what lies on the device; for the first answer a table of
positions may be made that is kept."""


def _all_that_learns_gets_a_gradient(report: Report) -> list[str]:
    return [f"no gradient: {name}" for name in report.without_gradient]


def _attention_is_the_kernel(report: Report) -> list[str]:
    """Once in every layer of the tower, in the resampler and, of packed rows, in every layer of the language model."""
    parts = _parts(report)
    by_kernel = _attending(report, *parts.seeing, *(parts.saying if report.case.rows == "packed" else ()))
    by_sdpa = [name for name in report.attentions if name not in by_kernel]
    again = _attending(report, *_recomputed(report)) if report.case.recomputes else []
    learning = _attending(report, *parts.saying) if report.case.method == "adapters" else report.attentions
    gradients = sum(name in learning for name in by_kernel)
    return [
        *_differences("forward: the kernel", report.kernels, "forward", dict.fromkeys(by_kernel, 1)),
        *_differences("forward: sdpa", report.sdpa, "forward", dict.fromkeys(by_sdpa, 1)),
        *_differences(
            "backward: the kernel",
            report.kernels,
            "backward",
            {name: 1 for name in again if name in by_kernel} | ({"gradient": gradients} if gradients else {}),
        ),
        *_differences("backward: sdpa", report.sdpa, "backward", {name: 1 for name in again if name not in by_kernel}),
    ]


def _answers_see_by_the_kernel(report: Report) -> list[str]:
    """A prompt's pictures are seen by the kernel, once; tokens attend by sdpa, which takes the cache."""
    parts = _parts(report)
    seeing, saying = _attending(report, *parts.seeing), _attending(report, *parts.saying)
    found = _differences("prefill: the kernel", report.kernels, "prefill", dict.fromkeys(seeing, 1))
    for phase in ("prefill", "decode 1", "decode 2"):
        found += _differences(f"{phase}: sdpa", report.sdpa, phase, dict.fromkeys(saying, 1))
    for phase in ("decode 1", "decode 2"):
        found += _differences(f"{phase}: the kernel", report.kernels, phase, {})
    return found


def _only_pixels_are_large(report: Report) -> list[str]:
    """Nothing above 1 MB crosses between host and device but pixels."""
    return _named(each for each in report.crossings if each.num_bytes > _MOST_BYTES and not each.is_pixels)


def _training_does_not_wait(report: Report) -> list[str]:
    """From the batch's way to the device until the optimizer has been launched, nothing is asked of the device."""
    return _named(each for each in report.crossings_of(*_TRAINING) if each.waits or each.to == "host")


def _a_step_ends_with_one_wait(report: Report) -> list[str]:
    """Losses, gradient and signals are asked for together."""
    crossings = report.crossings_of("end of step")
    num_waits = sum(each.times for each in crossings if each.waits)
    return [] if num_waits == 1 else [f"found {num_waits} waits, expected 1", *_named(crossings)]


def _prefill_waits_for_its_layout_alone(report: Report) -> list[str]:
    return _named(
        each
        for each in report.crossings_of("prefill")
        if each.waits and _is_ours(each) and not _PREFILL.match(each.where)
    )


def _decoding_does_not_wait(report: Report) -> list[str]:
    """transformers waits for each token; nothing of ours does."""
    return _named(each for each in report.crossings_of("decode") if each.waits and _is_ours(each))


_OF_A_WHOLE_WALK: Mapping[str, Callable[[Report], list[str]]] = {
    "all that learns gets a gradient": _all_that_learns_gets_a_gradient,
    "attention is the kernel": _attention_is_the_kernel,
    "answers see by the kernel": _answers_see_by_the_kernel,
    "only pixels are large": _only_pixels_are_large,
    "training does not wait": _training_does_not_wait,
    "a step ends with one wait": _a_step_ends_with_one_wait,
    "prefill waits for its layout alone": _prefill_waits_for_its_layout_alone,
    "decoding does not wait": _decoding_does_not_wait,
}
_REACHES_ITS_END = "reaches its end"
"""No tensor meets one on another device, or of a precision that it does not go with."""

CLAIMS = (_REACHES_ITS_END, *_OF_A_WHOLE_WALK)


def broken(report: Report) -> dict[str, str]:
    """Say which promises a walk has broken, and by what. Of one that was stopped nothing else is known."""
    if report.stopped:
        return {_REACHES_ITS_END: report.stopped}
    found = {name: claim(report) for name, claim in _OF_A_WHOLE_WALK.items()}
    return {name: "\n".join(faults) for name, faults in found.items() if faults}


class _Parts(NamedTuple):
    """Where in the model pictures are seen, and where tokens attend: beginnings of the names of modules."""

    seeing: tuple[str, ...]
    saying: tuple[str, ...]


def _parts(report: Report) -> _Parts:
    parts = VERSIONS[report.case.release].network.parts
    return _Parts((parts.tower, parts.connector), (parts.language_model,))


def _attending(report: Report, *parts: str) -> list[str]:
    return [name for name in report.attentions if name.startswith(parts)]


def _recomputed(report: Report) -> list[str]:
    """Layers; what merges windows between those of a tower is none."""
    tower = VERSIONS[report.case.release].network.parts.tower
    return [*_parts(report).saying, *([] if report.case.method == "adapters" else [f"{tower}.encoder"])]


def _differences(
    what: str, calls: Mapping[str, Mapping[str, int]], phase: str, expected: Mapping[str, int]
) -> list[str]:
    found = Counter(calls.get(phase, {}))
    return [
        f"{what} was called {found[name]} times by {name}, expected {expected.get(name, 0)}"
        for name in {**found, **expected}
        if found[name] != expected.get(name, 0)
    ]


def _is_ours(crossing: Crossing) -> bool:
    return crossing.where.removeprefix("gradient of ").startswith("minicpmv/")


def _named(crossings: Iterable[Crossing]) -> list[str]:
    return [str(each) for each in crossings]
