"""Slice plans against the sizes that the released image processors compute."""

from __future__ import annotations

import json
from typing import Any

import pytest

from minicpmv.processing.pictures.slicing import SliceConfig, plan_slices
from minicpmv.processing.text.turns import ImageSegment
from minicpmv.processing.tokens.encode import spell_out
from minicpmv.releases.row import TokenRule
from minicpmv.releases.table import VERSIONS
from tests.parity.cases import FIXTURES

ROWS: list[dict[str, Any]] = json.loads((FIXTURES / "preprocess" / "slicing.json").read_text(encoding="utf-8"))


def _name(row: dict[str, Any]) -> str:
    return "{}x{}-{}".format(*row["size"], row["max_slice_nums"])


@pytest.mark.parametrize("row", ROWS, ids=_name)
def test_plan_equals_the_released_sizes(row: dict[str, Any]) -> None:
    plan = plan_slices(row["size"][0], row["size"][1], SliceConfig(max_slice_nums=row["max_slice_nums"]))
    assert plan.grid == (tuple(row["grid"]) if row["grid"] else None)
    assert plan.source_size == tuple(row["source_size"])
    assert plan.slice_size == (tuple(row["slice_size"]) if row["slice_size"] else None)
    assert plan.num_tiles == row["n_slices"]
    assert plan.tgt_sizes == [tuple(size) for size in row["tgt_sizes"]]
    if "refine_size" in row:
        assert plan.refine_size == (tuple(row["refine_size"]) if row["refine_size"] else None)


@pytest.mark.parametrize("row", [row for row in ROWS if "placeholder_infer_v2_6_q2" in row], ids=_name)
def test_image_block_equals_the_released_placeholder(row: dict[str, Any]) -> None:
    """In training 2.6 numbers only sliced images; here, as at inference, every image has its number."""
    plan = plan_slices(row["size"][0], row["size"][1], SliceConfig(max_slice_nums=row["max_slice_nums"]))

    def block(version: str, *, use_image_id: bool) -> str:
        rule = TokenRule(query_num=2)
        return spell_out([ImageSegment(0)], [plan], VERSIONS[version], token_rule=rule, use_image_id=use_image_id)

    assert block("2.0", use_image_id=False) == row["placeholder_train_old_schema_q2"]
    assert block("2.5", use_image_id=False) == row["placeholder_infer_v2_5_q2"]
    assert block("2.6", use_image_id=True) == row["placeholder_infer_v2_6_q2"]


def test_the_table_holds_sliced_and_whole_pictures() -> None:
    assert {bool(row["grid"]) for row in ROWS} == {True, False}
    assert sum("refine_size" in row for row in ROWS) > 10
