"""Processors of the five fixture models, loaded once."""

from __future__ import annotations

import pytest

from minicpmv.processing.processor import MiniCPMVProcessor
from tests.parity.cases import FIXTURES
from tests.parity.cases import VERSIONS as MODELS

END = {"2.0": "</s>", "2.5": "<|eot_id|>", "2.6": "<|im_end|>", "4.0": "<|im_end|>", "4.5": "<|im_end|>"}
"""What closes an answer."""


@pytest.fixture(scope="session")
def processors() -> dict[str, MiniCPMVProcessor]:
    return {model: MiniCPMVProcessor.from_pretrained(FIXTURES / model) for model in MODELS}


@pytest.fixture(params=MODELS)
def processor(request: pytest.FixtureRequest, processors: dict[str, MiniCPMVProcessor]) -> MiniCPMVProcessor:
    return processors[request.param]
