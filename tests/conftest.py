"""What holds for every test, however pytest was started. Set before anything imports torch."""

from __future__ import annotations

import os

# The models here are tiny: a second thread only waits for the first, and makes steps up to 90 times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A test that would download something fails instead.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is marked ``gpu`` where there is none."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
