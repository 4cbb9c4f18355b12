"""Switching a remedy off breaks its promises and no others: the walk would see it if somebody removed it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest

from tests.gpu_walk.claims import broken
from tests.gpu_walk.report import Case, Report
from tests.gpu_walk.starting import Walks

pytestmark = pytest.mark.long

_WAITS = "training does not wait"
_LARGE = "only pixels are large"
_KERNEL = "attention is the kernel"
_PREFILL = "prefill waits for its layout alone"

# Remedy -> the promises that are broken without it, and a word of what the walk says.
BROKEN: dict[str, dict[str, str]] = {
    "positions made on the device": {_WAITS: "resampler.py", _LARGE: "218.94 MB", _PREFILL: "resampler.py"},
    "the cast of autocast": {_KERNEL: "sdpa was called 4 times by llm.model.layers.0.self_attn, expected 0"},
    "places of labels": {_WAITS: "index by a mask"},
}
OTHERS: dict[str, dict[str, str]] = {
    "places of images": {_WAITS: "masked_scatter_backward"},
    "times made on the device": {_LARGE: "1.10 MB", _PREFILL: "resampler.py"},
    "the mask of padded rows": {_WAITS: "masking_utils.py"},
    "the layout": {_WAITS: "layout.py"},
    "pinned memory": {_WAITS: "8.98 MB"},
    "copies that do not block": {_WAITS: "send_to_device"},
    "one question at the end of a step": {"a step ends with one wait": "waits, expected 1"},
    "a model on one device": {"reaches its end": "found at least two devices"},
    "gradients of the tower": {_KERNEL: "gradient", "all that learns gets a gradient": "vpm"},
}


# What is walked without it, where that is not the usual case.
WHERE = {
    "times made on the device": Case(release="4.5"),
    "the mask of padded rows": Case(release="2.6", rows="padded"),
}


def _without(remedies: Iterable[str]) -> list[Case]:
    return [replace(WHERE.get(remedy, Case(release="2.6")), fault=remedy) for remedy in remedies]


@pytest.mark.parametrize("case", _without(BROKEN), ids=lambda case: case.fault)
def test_a_remedy_is_missed(case: Case, walks: Walks) -> None:
    _check(walks.of(case), BROKEN[case.fault])


@pytest.mark.slow
@pytest.mark.parametrize("case", _without(OTHERS), ids=lambda case: case.fault)
def test_another_remedy_is_missed(case: Case, walks: Walks) -> None:
    _check(walks.of(case), OTHERS[case.fault])


def _check(report: Report, expected: dict[str, str]) -> None:
    found = broken(report)
    assert found.keys() == expected.keys(), "\n\n".join(f"{name}:\n{what}" for name, what in found.items())
    for name, word in expected.items():
        assert word in found[name]
