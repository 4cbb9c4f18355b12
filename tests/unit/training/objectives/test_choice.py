"""The names of objectives."""

from __future__ import annotations

from typing import get_args, get_type_hints

from minicpmv.training.flags.declarations import RunArguments
from minicpmv.training.objectives.choice import OBJECTIVES


def test_the_flag_takes_the_names_of_the_table() -> None:
    assert set(get_args(get_type_hints(RunArguments)["objective"])) == OBJECTIVES.keys()
