"""Films, pictures and texts in one row: each record's logits and gradients are those that it has alone.

Measured in float32: logits differ by at most 7e-6, gradients by 9e-7 of their norm. Frames in another order change
logits by 1.1 or more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from minicpmv.data.samples.collation import PackedCollator
from minicpmv.data.samples.dataset import ConversationDataset
from minicpmv.data.sources.loading import load_records
from minicpmv.models.skeleton import load_weights
from minicpmv.releases.row import find_code
from minicpmv.releases.table import VERSIONS
from tests.omni import write_omni
from tests.tiny import FIXTURES, conversation, save_picture, write_data

_FOLDERS = {"2.6": "v2_6", "4.0": "v4", "4.5": "v4_5", "4.6": "v4_6", "4.7": "v4_7"}
_FRAMES = [f"upright/{number}.png" for number in range(3)]
_RECORDS: list[dict[str, Any]] = [
    {"video": "wide", "conversations": conversation("<video>\nWhat?", "A cat runs.")},
    {"conversations": conversation("Say it.", "So it is.")},
    {
        "image": "p.png",
        "video": {"video": "upright", "max_frames": 4},
        "conversations": conversation("<image> and <video>\nWhat?", "Both."),
    },
    {"image": "p.png", "conversations": conversation("<image>\nWhat?", "A dog.")},
    {
        "videos": [["wide/3.png"], {"video": _FRAMES, "times": [0, 0.4, 2.5]}],
        "conversations": conversation("<video> This?", "No.", "And <video>?", "Yes, it is."),
    },
]
_ORDERS = ([0, 1, 2, 3, 4], [4, 2, 0, 3, 1], [2, 2, 0])

Prepared = tuple[Any, list[dict[str, Tensor]]]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("data")
    for number in range(7):
        save_picture(folder / "wide" / f"{number}.png", 90, 50, seed=number)
        save_picture(folder / "upright" / f"{number}.png", 50, 84, seed=10 + number)
    save_picture(folder / "p.png", 150, 80, seed=99)
    return write_data(folder / "train.json", [{"id": str(place)} | record for place, record in enumerate(_RECORDS)])


@pytest.fixture(scope="module", params=[*_FOLDERS, "o-2.6", "o-4.5"])
def prepared(request: pytest.FixtureRequest, data: str, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """A release's model, and the records as training reads them."""
    name = request.param
    folder = FIXTURES / _FOLDERS[name] if name in _FOLDERS else write_omni(tmp_path_factory.mktemp("omni") / name, name)
    version = VERSIONS[name]
    processor = find_code(version.reading.processor).from_pretrained(folder)
    samples = ConversationDataset(load_records(data, version=version), processor, max_length=1024)
    return load_weights(folder, dtype=torch.float32).train(), list(samples)


def logits_of(model: Any, samples: Sequence[dict[str, Tensor]]) -> Sequence[Tensor]:
    """Return the logits of each sample of a row."""
    row = PackedCollator(0)(samples)
    with torch.no_grad():
        logits = model(**{name: value for name, value in row.items() if name != "labels"}).logits[0]
    return logits.split([len(sample["input_ids"]) for sample in samples])


def gradient_of(model: Any, rows: Sequence[Sequence[dict[str, Tensor]]]) -> tuple[float, Tensor]:
    """Return the loss of one step over rows, and its gradient."""
    model.zero_grad()
    batches = [PackedCollator(0)(row) for row in rows]
    trained = sum(int((sample["labels"][1:] != -100).sum()) for row in rows for sample in row)
    total = 0.0
    for batch in batches:
        loss = model(**batch, num_items_in_batch=trained).loss
        loss.backward()
        total += loss.item()
    return total, torch.cat([each.grad.flatten() for each in model.parameters() if each.grad is not None])


@pytest.mark.parametrize("order", _ORDERS, ids=str)
def test_logits_in_a_row_are_those_of_each_record_alone(prepared: Prepared, order: Sequence[int]) -> None:
    model, samples = prepared
    alone = [logits_of(model, [sample])[0] for sample in samples]
    for found, place in zip(logits_of(model, [samples[place] for place in order]), order, strict=True):
        torch.testing.assert_close(found, alone[place], atol=2e-5, rtol=0)


def test_loss_and_gradient_of_a_row_are_those_of_its_records(prepared: Prepared) -> None:
    model, samples = prepared
    loss, gradient = gradient_of(model, [samples])
    expected_loss, expected = gradient_of(model, [[sample] for sample in samples])
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    assert (gradient - expected).norm() < 5e-6 * expected.norm()


def test_frames_in_another_order_are_seen(prepared: Prepared) -> None:
    """So equal logits mean something."""
    model, samples = prepared
    film = samples[0]
    (expected,), (turned,) = (
        logits_of(model, [film | {"pixel_values": pixels}])
        for pixels in (film["pixel_values"], film["pixel_values"].flip(0))
    )
    assert (turned - expected).abs().max() > 0.1
