"""Fixtures of the walk: the fake device, compiled, and the reports of what was walked beside it."""

from __future__ import annotations

import os
from functools import partial

import pytest

from tests.gpu_walk.library import MissingCompiler, compile_library
from tests.gpu_walk.report import Case
from tests.gpu_walk.starting import Start, Walks, start_beside


@pytest.fixture(scope="session")
def start(request: pytest.FixtureRequest) -> Start:
    """Start a module of this folder beside the fake device.

    Without a compiler these tests are skipped, but fail where ``CI`` is set: there nobody would see that they are.
    """
    cache = request.config.cache
    assert cache is not None, "pytest's cache is on"
    try:
        library = compile_library(cache.mkdir("gpu_walk"))
    except MissingCompiler as missing:
        if os.environ.get("CI"):
            pytest.fail(f"{missing}, or leave CI unset to skip these tests")
        pytest.skip(str(missing))
    return partial(start_beside, library)


@pytest.fixture(scope="session")
def walks(request: pytest.FixtureRequest, start: Start, tmp_path_factory: pytest.TempPathFactory) -> Walks:
    """Walk the cases of this session's tests."""
    calls = [getattr(item, "callspec", None) for item in request.session.items]
    cases = [each for call in calls if call is not None for each in call.params.values() if isinstance(each, Case)]
    return Walks(start, list(dict.fromkeys(cases)), tmp_path_factory.mktemp)
