"""Two runs are told apart by what their answers follow from."""

from __future__ import annotations

from minicpmv.inference.identity import describe_differences


def test_only_what_differs_is_named_also_where_one_run_does_not_have_it() -> None:
    assert describe_differences({"seed": 1, "top_k": 5}, {"seed": 1, "top_k": 5}) == ""
    assert describe_differences({"seed": 1, "old": "x"}, {"seed": 2, "new": 3}) == (
        "seed 1 and now 2; new None and now 3; old x and now None"
    )
