"""A layout says what the tensors say that it is made of, and the model asks for nothing else."""

from __future__ import annotations

import pickle
from dataclasses import fields
from typing import Any

import pytest
import torch
from accelerate.utils import send_to_device
from torch import Tensor

from minicpmv.models.attention.branches import Branches
from minicpmv.models.modeling import MiniCPMVForConditionalGeneration
from minicpmv.models.networks.layout import Layout, lay_out
from tests.invariants.samples import packed, padded, samples_of
from tests.parity.cases import VERSIONS
from tests.tiny import FIXTURES

LABELS = torch.tensor([[7, 3, -100, 1, 4, 5]])
POSITIONS = torch.tensor([[0, 1, 2, 0, 1, 2]])


def test_packed_rows_are_told_by_positions_that_start_again() -> None:
    layout = Layout.read(position_ids=POSITIONS)
    assert tuple(layout.samples or ()) == layout.tokens_of_each == (3, 3)
    assert torch.equal(layout.position_ids((1, 6), torch.device("cpu")), POSITIONS)
    several = torch.stack([torch.tensor([0, 1, 0, 1]), torch.tensor([0, 1, 2, 3])])
    layout = Layout.read(position_ids=several)
    assert layout.tokens_of_each == (2, 2, 4)
    assert torch.equal(layout.position_ids((2, 4), torch.device("cpu")), several)


def test_a_row_of_one_sample_is_not_packed() -> None:
    layout = Layout.read(position_ids=torch.arange(5)[None])
    assert layout.samples is None
    assert layout.tokens_of_each == (5,)


def test_the_first_token_of_a_sample_is_never_predicted() -> None:
    assert Layout.read(labels=LABELS).label_places.tolist() == [1, 3, 4, 5]
    layout = Layout.read(labels=LABELS, position_ids=POSITIONS)
    assert layout.label_places.tolist() == [1, 4, 5]
    assert layout.label_weight == 3, "so it does not count either"


def test_labels_without_weight_are_no_places() -> None:
    weights = torch.tensor([[9.0, 0.5, 9.0, 0.0, 2.0, 0.25]])
    layout = Layout.read(labels=LABELS, label_weights=weights)
    assert layout.label_places.tolist() == [1, 4, 5]
    assert layout.label_weight == 2.75


def test_image_tokens_are_counted_by_sample() -> None:
    mask = torch.tensor([[False, True, True, False, True, False]])
    layout = Layout.read(image_mask=mask, position_ids=POSITIONS, tgt_sizes=torch.tensor([[2, 3]]))
    assert layout.image_places.tolist() == [1, 2, 4]
    assert layout.slots_of_each == (2, 1)
    assert layout.sizes == ((2, 3),)


def test_layout_travels_as_batches_do() -> None:
    """Through a worker's queue, and to the device as accelerate sends it, with everything else unchanged."""
    batch = lay_out({"labels": LABELS, "position_ids": POSITIONS, "image_mask": POSITIONS == 1})
    there = send_to_device({"layout": pickle.loads(pickle.dumps(batch["layout"]))}, "meta", non_blocking=True)["layout"]  # noqa: S301
    assert there.image_places.device.type == there.label_places.device.type == "meta"
    for field in fields(Layout):
        before, after = getattr(batch["layout"], field.name), getattr(there, field.name)
        if isinstance(before, Tensor):
            assert before.shape == after.shape
        else:
            assert (tuple(before) if field.name == "samples" else before) == (
                tuple(after) if field.name == "samples" else after
            )


def test_a_batch_loses_what_its_layout_says() -> None:
    batch = lay_out({"input_ids": LABELS, "labels": LABELS, "position_ids": POSITIONS, "image_mask": POSITIONS == 1})
    assert batch.keys() == {"input_ids", "labels", "layout"}


@pytest.mark.parametrize(
    "name", [name if name in ("v2_6", "v4_5") else pytest.param(name, marks=pytest.mark.slow) for name in VERSIONS]
)
@pytest.mark.parametrize(
    "form",
    [
        packed,
        lambda samples: packed(samples[:1]),
        lambda samples: padded(samples, "right"),
        lambda samples: padded([samples[0], samples[0]], "right"),
    ],
    ids=["packed", "a row of one sample", "padded", "of one length"],
)
def test_loss_and_gradients_are_those_of_a_batch_without_layout(name: str, form: Any) -> None:
    model = MiniCPMVForConditionalGeneration.from_pretrained(FIXTURES / name, dtype=torch.float32).train()
    batch = form(samples_of(name))
    found = []
    for inputs in (batch, lay_out(batch)):
        model.zero_grad()
        loss = model(**inputs).loss
        loss.backward()
        found.append([loss.detach(), *(each.grad for each in model.parameters())])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_images_without_a_layout_of_them_are_refused() -> None:
    model = MiniCPMVForConditionalGeneration.from_pretrained(FIXTURES / "v2_6", dtype=torch.float32)
    batch = packed(samples_of("v2_6"))
    with pytest.raises(ValueError, match="without tgt_sizes or image_mask"):
        model(**batch | {"layout": Layout.read(position_ids=batch["position_ids"], labels=batch["labels"])})


def test_segments_make_branches_whose_first_token_is_predicted_by_the_prompts_last() -> None:
    """A prompt of 3 with answers of 2 and 1, then a lone answer."""
    segments = torch.tensor([[5, 0, 0, 1], [1, 0, 3, -1], [2, 0, 0, 0]])
    labels = torch.tensor([[-100, -100, -100, 7, 8, 9, -100, 5]])
    layout = Layout.read(segments=segments, labels=labels)
    assert isinstance(layout.samples, Branches)
    assert layout.ranks == (1, -1, 0)
    assert layout.label_places is not None
    assert layout.label_places.tolist() == [3, 4, 5, 7]
    assert layout.label_sources is not None
    assert layout.label_sources.tolist() == [2, 3, 2, 6]
    assert layout.labels_of_each == (2, 1, 1)
    assert layout.position_ids((1, 8), torch.device("cpu")).tolist() == [[0, 1, 2, 3, 4, 3, 0, 1]]


def test_labels_of_padded_rows_are_counted_by_row() -> None:
    labels = torch.tensor([[-100, 7, 8], [-100, -100, 5]])
    assert Layout.read(labels=labels).labels_of_each == (2, 1)
