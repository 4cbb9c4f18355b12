"""Packed rows of 4.6 and 4.7: each sample as alone, whose stored logits come from transformers' own class.

A sample that reads another's end through state or convolution differs by 3.4 to 5.3 in its logits.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from minicpmv.models.attention.varlen import Lengths
from minicpmv.models.native import linear_attention
from minicpmv.models.networks.layout import lay_out
from tests.parity.native_cases import NATIVE, load_model, load_packed

LOGITS: dict[str, Any] = {"atol": 5e-5, "rtol": 0.0}


@pytest.fixture(scope="module", params=NATIVE)
def version(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(version: str) -> Any:
    return load_model(version).train()


def gradients(model: Any, batches: list[dict[str, Any]]) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of one step over batches."""
    model.zero_grad()
    total = 0.0
    trained = sum(int((batch["labels"] != -100).sum()) for batch in batches)
    for batch in batches:
        loss = model(**batch, num_items_in_batch=trained).loss
        loss.backward()
        total += loss.item()
    return total, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def far(ours: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Relative difference of all gradients together."""
    off = torch.cat([(ours[name] - expected[name]).flatten() for name in expected])
    return (off.norm() / torch.cat([each.flatten() for each in expected.values()]).norm()).item()


def alone(row: Any) -> list[dict[str, Any]]:
    labels = [case.labels.clone() for case in row.cases]
    for each in labels:
        each[:, 0] = -100
    return [case.inputs | {"labels": each} for case, each in zip(row.cases, labels, strict=True)]


@pytest.mark.parametrize("laid_out", [False, True], ids=["tensors", "layout"])
def test_logits_in_a_packed_row_are_those_of_each_sample_alone(model: Any, version: str, laid_out: bool) -> None:
    row = load_packed(version)
    with torch.no_grad():
        logits = model(**(lay_out(row.inputs) if laid_out else row.inputs)).logits[0]
    torch.testing.assert_close(logits[row.stored["logit_rows"].long()], row.stored["logits"], **LOGITS)


def test_a_boundary_that_is_off_by_one_token_is_seen(model: Any, version: str) -> None:
    row = load_packed(version)
    inputs = row.inputs
    positions = inputs["position_ids"].clone()
    first = row.about["lengths"][0]
    positions[0, first] = first
    positions[0, first + 1 : sum(row.about["lengths"][:2])] -= 1
    with torch.no_grad():
        logits = model(**(inputs | {"position_ids": positions})).logits[0]
    difference = (logits[row.stored["logit_rows"].long()] - row.stored["logits"]).abs().max()
    assert difference > 1e-2


def test_loss_and_gradients_in_a_packed_row_are_those_of_its_samples(model: Any, version: str) -> None:
    row = load_packed(version)
    loss, ours = gradients(model, [row.inputs | {"labels": row.labels}])
    assert loss == pytest.approx(row.about["loss"], abs=1e-5)
    expected_loss, expected = gradients(model, alone(row))
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    assert far(ours, expected) < 2e-5  # measured: 4e-6
    largest = max(row.about["grad_norms"].values())
    for name, norm in row.about["grad_norms"].items():
        small = norm < largest / 1000
        assert ours[name].norm().item() == pytest.approx(norm, rel=0 if small else 2e-4, abs=2e-6), name


def test_recomputed_activations_change_nothing(version: str) -> None:
    row = load_packed(version)
    batch = row.inputs | {"labels": row.labels}
    model = load_model(version).train()
    loss, expected = gradients(model, [batch])
    (getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable)()
    recomputed, ours = gradients(model, [batch])
    assert recomputed == loss
    assert far(ours, expected) < 1e-6


def test_bfloat16_packs_as_exactly(version: str) -> None:
    """Measured: 0. Matrix products over other numbers of rows may round otherwise; a leak would be 3.4 or more."""
    row = load_packed(version)
    model = load_model(version, dtype=torch.bfloat16).eval()
    with torch.no_grad():
        packed = model(**row.inputs).logits[0].split(row.about["lengths"])
        each = [model(**case.inputs).logits[0] for case in row.cases]
    largest = max((ours - theirs).abs().max().item() for ours, theirs in zip(packed, each, strict=True))
    assert largest < 0.05


@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_rows_are_each_as_alone(model: Any, version: str, side: str) -> None:
    row = load_packed(version)
    longest = max(row.about["lengths"])

    def pad(tensor: Tensor) -> Tensor:
        room = longest - tensor.shape[-1]
        return torch.nn.functional.pad(tensor, (room, 0) if side == "left" else (0, room))

    cases = [case.inputs for case in row.cases]
    batch = {name: row.inputs[name] for name in ("pixel_values", "tgt_sizes")}
    batch["input_ids"] = torch.cat([pad(case["input_ids"]) for case in cases])
    batch["image_mask"] = torch.cat([pad(case["image_mask"]) for case in cases])
    batch["attention_mask"] = torch.cat([pad(torch.ones_like(case["input_ids"])) for case in cases])
    if "mrope_position_ids" in cases[0]:
        batch["mrope_position_ids"] = torch.cat([pad(case["mrope_position_ids"]) for case in cases], dim=1)
    rows = row.stored["logit_rows"].long()
    for given in (batch, lay_out(batch)):
        with torch.no_grad():
            logits = model(**given).logits[batch["attention_mask"].bool()]
        torch.testing.assert_close(logits[rows], row.stored["logits"], atol=1e-4, rtol=0)


def test_where_the_kernel_is_it_is_told_the_offsets_once_and_only_with_samples_apart(
    version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stub in flash-linear-attention's place: one call for each layer, and what it got was convolved apart."""
    layer = next(layer.linear_attn for layer in load_model(version).layers if hasattr(layer, "linear_attn"))
    lengths = Lengths([5, 1, 9, 2])
    hidden = torch.randn(1, 17, 64, generator=torch.Generator().manual_seed(0))
    calls: list[dict[str, Any]] = []
    rule = linear_attention.released.torch_chunk_gated_delta_rule

    def stub(query: Tensor, key: Tensor, value: Tensor, **told: Any) -> tuple[Tensor, None]:
        calls.append({"query": query, "key": key, "value": value, **told})
        ends = told["cu_seqlens"].tolist()
        pieces = [slice(start, end) for start, end in pairwise(ends)]
        gates = [{name: told[name][:, piece] for name in ("g", "beta")} for piece in pieces]
        options = {"use_qk_l2norm_in_kernel": told["use_qk_l2norm_in_kernel"]}
        out = [
            rule(query[:, piece], key[:, piece], value[:, piece], **gate, **options)[0]
            for piece, gate in zip(pieces, gates, strict=True)
        ]
        return torch.cat(out, dim=1), None

    with torch.no_grad():
        expected = torch.cat([layer(piece) for piece in hidden.split(list(lengths), dim=1)], dim=1)
        looped = layer(hidden, sequence_lengths=lengths)
        monkeypatch.setattr(linear_attention, "_has_kernel", lambda tensor: True)
        monkeypatch.setattr(linear_attention.released, "torch_chunk_gated_delta_rule", stub)
        told = layer(hidden, sequence_lengths=lengths)
    torch.testing.assert_close(looped, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(told, expected, atol=1e-6, rtol=0)
    (call,) = calls
    assert call["cu_seqlens"].tolist() == call["cu_seqlens_cpu"].tolist() == [0, 5, 6, 15, 17]
    assert call["query"].shape[:2] == (1, 17)
