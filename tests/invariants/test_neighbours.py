"""A sample's result does not depend on its neighbours: alone, padded on either side and packed are the same.

Measured in float32: logits differ by at most 4e-6, gradients by 5e-7 of their norm. Where a sample sees its neighbour
they differ by more than 1 and by two thirds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from minicpmv.models.attention.packed_rows import PACKED_ATTENTION
from minicpmv.models.modeling import MiniCPMVForConditionalGeneration
from tests.invariants.samples import Sample, alone, offsets, packed, padded, samples_of
from tests.parity.cases import FIXTURES, VERSIONS

CLOSE: dict[str, Any] = {"atol": 1e-5, "rtol": 0.0}
ORDERS = ([0, 1, 2, 3, 4, 5], [5, 3, 1, 4, 2, 0], [2, 5], [1, 1, 3])


def load(version: str, **options: Any) -> MiniCPMVForConditionalGeneration:
    options.setdefault("dtype", torch.float32)
    return MiniCPMVForConditionalGeneration.from_pretrained(FIXTURES / version, **options).eval()


@pytest.fixture(scope="module", params=VERSIONS)
def prepared(request: pytest.FixtureRequest) -> tuple[MiniCPMVForConditionalGeneration, list[Sample], list[Tensor]]:
    """A model, samples, and each sample's logits alone."""
    model, samples = load(request.param), samples_of(request.param)
    with torch.no_grad():
        return model, samples, [model(**alone(sample)).logits[0] for sample in samples]


def forward(model: MiniCPMVForConditionalGeneration, batch: Sample, **more: Any) -> Tensor:
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    with torch.no_grad():
        return model(**inputs, **more).logits


@pytest.mark.parametrize("order", ORDERS, ids=str)
@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_equals_alone_in_any_order(prepared: Any, side: str, order: Sequence[int]) -> None:
    model, samples, expected = prepared
    batch = padded([samples[i] for i in order], side)
    logits = forward(model, batch)
    for row, i in enumerate(order):
        torch.testing.assert_close(logits[row, batch["attention_mask"][row].bool()], expected[i], **CLOSE)


@pytest.mark.parametrize("order", ORDERS, ids=str)
@pytest.mark.parametrize("stated", [False, True], ids=["by-position", "by-offset"])
def test_packed_equals_alone_in_any_order(prepared: Any, stated: bool, order: Sequence[int]) -> None:
    model, samples, expected = prepared
    chosen = [samples[i] for i in order]
    batch, more = packed(chosen), {}
    if stated:
        more["cu_seq_lens_q"] = offsets(chosen)
        del batch["position_ids"]
    logits = forward(model, batch, **more)[0]
    for found, i in zip(logits.split([len(sample["input_ids"]) for sample in chosen]), order, strict=True):
        torch.testing.assert_close(found, expected[i], **CLOSE)


@pytest.mark.parametrize("version", VERSIONS)
def test_two_packed_rows_equal_one(version: str) -> None:
    model, samples = load(version), samples_of(version)
    row = packed(samples[:3])
    two = {key: torch.cat([row[key], row[key]]) for key in row}
    once, twice = forward(model, row), forward(model, two)
    torch.testing.assert_close(twice, once.expand(2, -1, -1), **CLOSE)


def gradients(model: MiniCPMVForConditionalGeneration, batches: Sequence[Sample]) -> tuple[float, Tensor]:
    """Summed loss and joined gradient over batches, as one optimizer step takes them."""
    model.zero_grad()
    count = sum(int((batch["labels"] != -100).sum()) for batch in batches)
    total = 0.0
    for batch in batches:
        loss = model(**batch, num_items_in_batch=count).loss
        loss.backward()
        total += loss.item()
    return total, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("how", ["sdpa", "eager", "checkpointed"])
@pytest.mark.parametrize("version", VERSIONS)
def test_packed_trains_as_padded_and_as_one_by_one(version: str, how: str) -> None:
    model = load(version, attn_implementation="eager" if how == "eager" else "sdpa").train()
    if how == "checkpointed":
        # Until transformers 5.20, the last for Python 3.10, it has its old name.
        (getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable)()
    samples = samples_of(version)
    loss, gradient = gradients(model, [packed(samples)])
    for batches in ([padded(samples, "right")], [padded([sample], "right") for sample in samples]):
        expected_loss, expected = gradients(model, batches)
        assert loss == pytest.approx(expected_loss, rel=1e-6)  # two units in the last place
        assert (gradient - expected).norm() < 5e-6 * expected.norm()


@pytest.mark.parametrize("version", VERSIONS)
def test_the_first_token_of_a_packed_sample_is_not_predicted_from_its_neighbour(version: str) -> None:
    model, samples = load(version).train(), samples_of(version)
    labelled = [sample | {"labels": sample["labels"].index_fill(0, torch.tensor([0]), 3)} for sample in samples]
    with torch.no_grad():
        assert model(**packed(labelled)).loss == model(**packed(samples)).loss


def test_another_attention_chosen_later_gives_packed_rows_the_same_result() -> None:
    """sdpa stays sdpa by sequence; eager goes by transformers' own mask."""
    model, samples = load("v2_6"), samples_of("v2_6")
    row = packed(samples)
    expected = forward(model, row)
    chosen = []
    for name in ("eager", "sdpa"):
        model.set_attn_implementation(name)
        chosen.append(model.llm.config._attn_implementation)
        torch.testing.assert_close(forward(model, row), expected, **CLOSE)
    assert chosen == ["eager", PACKED_ATTENTION]


@pytest.mark.parametrize("wrong", [[0, 4], [1, 5], [0, 3, 3, 5]])
def test_offsets_that_do_not_fit_the_row_are_named(wrong: list[int]) -> None:
    model = load("v2_6")
    ids = torch.arange(5)[None]
    with pytest.raises(ValueError, match="expected offsets that rise from 0"):
        model(input_ids=ids, position_ids=ids, cu_seq_lens_q=torch.tensor(wrong, dtype=torch.int32))
