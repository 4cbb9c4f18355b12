"""What stands in the controls."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from minicpmv.errors import UsageError
from minicpmv.releases.table import VERSIONS

# `controls` is imported by the tests: gradio takes seconds, which every worker would spend on collecting.
pytestmark = pytest.mark.skipif(find_spec("gradio") is None, reason="needs the extra `ui`")


def test_a_number_may_be_left_out_and_not_be_anything_else() -> None:
    from minicpmv.ui.controls import _whole_number

    assert _whole_number(" ", "Seed", least=0) is None
    assert _whole_number(" 7 ", "Seed", least=0) == 7
    for text in ("0", "-1", "1.5", "many"):
        with pytest.raises(UsageError, match="Tiles: found something else, expected a whole number of at least 1"):
            _whole_number(text, "Tiles", least=1)


def test_sampling_starts_with_the_released_values() -> None:
    from minicpmv.ui.controls import _released

    assert _released(VERSIONS["2.6"], False) == {
        "temperature": 0.7,
        "top_p": 0.8,
        "top_k": 100,
        "repetition_penalty": 1.05,
    }
    assert _released(VERSIONS["4.5"], True) == {
        "temperature": 0.7,
        "top_p": 1.0,
        "top_k": 50,
        "repetition_penalty": 1.0,
    }
