"""The GPU path of every release: which kernels it calls, what it copies, and where the host waits for the device."""

from __future__ import annotations

import pytest

from tests.gpu_walk.cases import DEFAULT, OTHERS
from tests.gpu_walk.claims import CLAIMS, broken
from tests.gpu_walk.report import Case
from tests.gpu_walk.starting import Walks


@pytest.mark.parametrize("claim", CLAIMS)
@pytest.mark.parametrize("case", DEFAULT, ids=str)
def test_walk(case: Case, claim: str, walks: Walks) -> None:
    _check(case, claim, walks)


@pytest.mark.slow
@pytest.mark.parametrize("claim", CLAIMS)
@pytest.mark.parametrize("case", OTHERS, ids=str)
def test_other_ways_to_train(case: Case, claim: str, walks: Walks) -> None:
    _check(case, claim, walks)


def _check(case: Case, claim: str, walks: Walks) -> None:
    found = broken(walks.of(case)).get(claim)
    assert found is None, f"{case}: {claim}:\n{found}"
