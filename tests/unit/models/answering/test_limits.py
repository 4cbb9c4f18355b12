from __future__ import annotations

import math

import numpy as np
import pytest

from minicpmv.models.answering.limits import COUNT, POSITIVE, SHARE, Limit


@pytest.mark.parametrize(
    ("limit", "allowed", "refused"),
    [
        (COUNT, [1, 10**400, np.int64(3)], [0, -1, 1.0, True, "1", None]),
        (POSITIVE, [0.1, 2, np.float32(1)], [0, -0.5, math.nan, math.inf, True, "1", None, 1j]),
        (SHARE, [0.1, 1], [0, 1.01]),
    ],
)
def test_limit_allows_its_numbers_alone(limit: Limit, allowed: list[object], refused: list[object]) -> None:
    assert [value for value in (*allowed, *refused) if limit.allows(value)] == allowed


def test_text_is_read_as_the_number_that_it_states() -> None:
    assert (COUNT.read("8"), POSITIVE.read("8"), SHARE.read("2"), COUNT.read("8.0")) == (8, 8.0, None, None)
