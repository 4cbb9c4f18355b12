"""Packed rows, from files through data set and collator, train exactly as the same records one by one.

Measured in float32: losses differ by at most 2e-7 of themselves, gradients by 4e-7 of their norm.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from minicpmv.data.samples.collation import Collator, PackedCollator
from minicpmv.models.modeling import MiniCPMVForConditionalGeneration
from tests.invariants.test_batching import mixed_items
from tests.parity.cases import FIXTURES, VERSIONS

Item = dict[str, Tensor]
ROWS = {"text": [0, 3], "mixed": [3, 1, 0, 4], "several images": [2, 4, 1], "all": [4, 2, 0, 1, 3], "one": [2]}


@pytest.fixture(scope="module", params=VERSIONS)
def prepared(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[MiniCPMVForConditionalGeneration, list[Item]]:
    items, _ = mixed_items(request.param, tmp_path_factory.mktemp("data"))
    model = MiniCPMVForConditionalGeneration.from_pretrained(FIXTURES / request.param, dtype=torch.float32)
    return model.train(), items


def step(model: MiniCPMVForConditionalGeneration, batches: Sequence[Item]) -> tuple[float, Tensor]:
    """Summed loss and joined gradient of one optimizer step over these batches."""
    model.zero_grad()
    trained = sum((batch["labels"] != -100).sum() for batch in batches)
    total = 0.0
    for batch in batches:
        loss = model(**batch, num_items_in_batch=trained).loss
        loss.backward()
        total += loss.item()
    return total, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("row", ROWS.values(), ids=list(ROWS))
def test_packed_row_trains_as_its_records_one_by_one(
    prepared: tuple[MiniCPMVForConditionalGeneration, list[Item]], row: list[int]
) -> None:
    model, items = prepared
    loss, gradient = step(model, [PackedCollator(0)([items[i] for i in row])])
    expected_loss, expected = step(model, [Collator(0)([items[i]]) for i in row])
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    assert (gradient - expected).norm() < 1e-5 * expected.norm()


def test_a_record_never_changes_anothers_loss(
    prepared: tuple[MiniCPMVForConditionalGeneration, list[Item]],
) -> None:
    """The loss of record 1 alone, wherever it stands and whatever stands beside it."""
    model, items = prepared
    silent = [item | {"labels": torch.full_like(item["labels"], -100)} for item in items]
    silent[1] = items[1]
    with torch.no_grad():
        alone = model(**Collator(0)([items[1]])).loss.item()
        for row in ([1, 0], [0, 1], [2, 1, 4], [4, 1, 2], [3, 2, 1]):
            found = model(**PackedCollator(0)([silent[i] for i in row])).loss.item()
            assert found == pytest.approx(alone, rel=1e-6), row


@pytest.mark.parametrize("collator", [Collator(0), PackedCollator(0)], ids=["padded", "packed"])
def test_no_record_trains_nothing(
    prepared: tuple[MiniCPMVForConditionalGeneration, list[Item]], collator: Collator | PackedCollator
) -> None:
    model, _ = prepared
    batch = collator([])
    loss, gradient = step(model, [batch])
    assert (batch["labels"] == -100).all(), "nor is it counted"
    assert loss == 0
    assert not gradient.any()


def test_row_is_what_its_records_are(tmp_path: Path) -> None:
    items, _ = mixed_items("v2_6", tmp_path)
    row = PackedCollator(0).join(items)
    assert "attention_mask" not in row
    for name in ("input_ids", "labels", "image_mask"):
        assert torch.equal(row[name], torch.cat([item[name] for item in items])[None])
    starts = (row["position_ids"][0] == 0).nonzero().flatten().tolist()
    lengths = [len(item["input_ids"]) for item in items]
    assert starts == [sum(lengths[:i]) for i in range(len(lengths))]
    assert (row["labels"][0, starts] == -100).all(), "no record is predicted from the one before it"
