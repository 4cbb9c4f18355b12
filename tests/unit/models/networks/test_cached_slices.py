"""Known features give the loss and the gradient that seeing everything gives, whichever slices are known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from minicpmv.models.networks.cached_slices import join_in_order, left_to_see
from minicpmv.models.networks.layout import Layout, lay_out
from tests.invariants.samples import Sample, packed, padded, samples_of, with_known
from tests.tiny import FIXTURES

_KINDS = ("tower_features", "image_features")


def load(version: str, kind: str) -> Any:
    model = AutoModelForCausalLM.from_pretrained(FIXTURES / version, dtype=torch.float32)
    model.vpm.requires_grad_(False)
    model.resampler.requires_grad_(kind == "tower_features")
    return model.train()


@pytest.mark.parametrize("version", ["v2", "v2_5", "v2_6"])
@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize("together", [packed, lambda samples: padded(samples, "left")], ids=["packed", "padded"])
def test_loss_and_gradient_are_those_of_pixels(version: str, kind: str, together: Any) -> None:
    model, samples = load(version, kind), samples_of(version)
    batch = together(samples)

    def step(inputs: Sample) -> tuple[Tensor, list[Tensor]]:
        model.zero_grad()
        loss = model(**inputs).loss
        loss.backward()
        return loss.detach(), [parameter.grad for parameter in model.parameters() if parameter.grad is not None]

    loss, gradients = step(batch)
    for known in ({0, 4}, {1, 3}, set(range(6)), set()):
        theirs, their_gradients = step(lay_out(with_known(model, batch, samples, known, kind)))
        torch.testing.assert_close(theirs, loss, rtol=1e-5, atol=1e-5)
        # Weights differ by rounding alone; one slice in the wrong place is off by more than a tenth.
        torch.testing.assert_close(their_gradients, gradients, rtol=1e-3, atol=1e-4)


def test_video_frames_may_be_known() -> None:
    model, sample = load("v4_5", "tower_features").eval(), samples_of("v4_5")[0]
    sizes = [(rows, columns) for rows, columns in sample["tgt_sizes"].tolist()]
    times = torch.tensor([[int(place % 2 == 0), place] for place in range(len(sizes))])
    features = model.vpm(sample["pixel_values"], sizes, [len(sizes)])
    expected = model.get_image_features(sample["pixel_values"], sample["tgt_sizes"], temporal_ids=times)
    layout = Layout.read(
        tgt_sizes=sample["tgt_sizes"], temporal_ids=times, known_slices=torch.ones(len(sizes), dtype=torch.bool)
    )
    found = model._run_vision(None, replace(layout, tower_features=features), [len(sizes)])
    torch.testing.assert_close(found, expected)


def test_what_does_not_fit_is_refused() -> None:
    model, samples = load("v2_6", "tower_features"), samples_of("v2_6")
    batch = with_known(model, packed(samples), samples, {0}, "tower_features")
    for name, value, message in (
        ("known_slices", batch["known_slices"][1:], "flags for"),
        ("known_slices", ~batch["known_slices"], "tgt_sizes describe"),
        ("tower_features", batch["tower_features"][1:], "came along"),
        ("tower_features", None, "without tower_features"),
    ):
        with pytest.raises(ValueError, match=message):
            model(**lay_out({key: given for key, given in (batch | {name: value}).items() if given is not None}))


def test_known_rows_take_the_precision_of_the_others() -> None:
    theirs, ours = torch.ones(1, 2, dtype=torch.bfloat16), torch.zeros(2, 2)
    assert join_in_order([False, True], [2, 1], theirs, ours).dtype == torch.float32
    assert join_in_order([True], [1], theirs, None).dtype == torch.bfloat16
    assert left_to_see([True, False, False], [(1, 1), (2, 2), (3, 3)], [2, 0, 1]) == ([(2, 2), (3, 3)], [1, 0, 1])
