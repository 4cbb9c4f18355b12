"""The watched device itself: it must not be blind, or a walk would find nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.gpu_walk.probe_device import PROBES
from tests.gpu_walk.starting import Start


@pytest.fixture(scope="module")
def probed(start: Start) -> list[dict[str, Any]]:
    return [json.loads(line) for line in start("probe_device").splitlines()]


@pytest.mark.parametrize("name", PROBES)
def test_device_sees_what_crosses_and_what_waits(name: str, probed: list[dict[str, Any]]) -> None:
    found = next(each["found"] for each in probed if each.get("probe") == name)
    assert [tuple(each) for each in found] == PROBES[name][1]


def test_device_refuses_tensors_of_two_devices(probed: list[dict[str, Any]]) -> None:
    assert "at least two devices, cuda:0 and cpu" in probed[-1]["mixed"]


def test_device_counts_attention(probed: list[dict[str, Any]]) -> None:
    assert probed[-1]["sdpa"] == {"start": {"no module": 1}}
