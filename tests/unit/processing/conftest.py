"""Processors of the three fixture models, loaded once."""

from __future__ import annotations

import pytest

from minicpmv.processing.processor import MiniCPMVProcessor
from tests.parity.cases import FIXTURES

MODELS = ("v2", "v2_5", "v2_6")


@pytest.fixture(scope="session")
def processors() -> dict[str, MiniCPMVProcessor]:
    return {model: MiniCPMVProcessor.from_pretrained(FIXTURES / model) for model in MODELS}


@pytest.fixture(params=MODELS)
def processor(request: pytest.FixtureRequest, processors: dict[str, MiniCPMVProcessor]) -> MiniCPMVProcessor:
    return processors[request.param]
