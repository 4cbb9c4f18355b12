"""Bounds on what data workers hand over, beside the real batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor
from transformers import TrainingArguments

from minicpmv.data.batches.grouping import BatchPlanner
from minicpmv.data.batches.row_planner import RowPlanner
from minicpmv.data.samples.collation import Collator, PackedCollator
from minicpmv.data.samples.dataset import ConversationDataset
from minicpmv.data.sources.loading import load_records
from minicpmv.models.configuration import MiniCPMVConfig
from minicpmv.processing.processor import MiniCPMVProcessor
from minicpmv.releases.table import VERSIONS
from minicpmv.training.inputs.shared_memory import (
    Workers,
    bytes_of_pictures,
    heaviest_batch,
    heaviest_row,
    resolve_workers,
)
from tests.machines import CPU
from tests.run.training import make_data
from tests.tiny import FIXTURES, conversation, write_data

MIB = 2**20


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> ConversationDataset:
    data = make_data(tmp_path_factory.mktemp("data"), num_records=24)
    processor = MiniCPMVProcessor.from_pretrained(FIXTURES / "v2_6")
    dataset = ConversationDataset(load_records(data, version=VERSIONS["2.6"]), processor, max_length=512)
    dataset.check_lengths()
    return dataset


CONFIG = MiniCPMVConfig.from_pretrained(FIXTURES / "v2_6")


def num_bytes(value: Any) -> int:
    """What a batch's tensors take, the layout's own among them."""
    if isinstance(value, Tensor):
        return value.nbytes
    parts: list[Any] = list((value if isinstance(value, Mapping) else vars(value)).values())
    return sum(num_bytes(part) for part in parts if isinstance(part, Tensor | Mapping) or hasattr(part, "sizes"))


def test_no_batch_of_any_epoch_is_heavier_than_the_bound(dataset: ConversationDataset) -> None:
    pictures = bytes_of_pictures(dataset, CONFIG, has_features=False)
    rows = RowPlanner(dataset.lengths.tolist(), capacity=400)
    batches = BatchPlanner(len(dataset), batch_size=3)
    for plan, bound, collate in (
        (rows, heaviest_row(pictures, dataset.lengths, capacity=400), PackedCollator(0)),
        (batches, heaviest_batch(pictures, dataset.lengths, size=3), Collator(0)),
    ):
        found = [
            num_bytes(collate([dataset[index] for index in row])) for epoch in range(3) for row in plan.rows(epoch)
        ]
        assert max(found) > 10_000, "pictures are among them"
        assert max(found) <= bound < 4 * max(found)


@pytest.mark.parametrize("weight", [None, 0.5])
def test_short_records_beside_a_long_one_count_with_their_padding(tmp_path: Path, weight: float | None) -> None:
    """8 records of text, one of them of more than 8,000 tokens; with weights there is one more tensor."""
    records = [{"id": str(index), "conversations": conversation("Say.", "word")} for index in range(8)]
    records[0]["conversations"] = conversation("Say.", "word " * 2000)
    if weight is not None:
        records[1]["conversations"][1]["weight"] = weight
    data = load_records(write_data(tmp_path / "train.json", records), version=VERSIONS["2.6"])
    texts = ConversationDataset(data, MiniCPMVProcessor.from_pretrained(FIXTURES / "v2_6"), max_length=8192)
    texts.check_lengths()
    pictures = bytes_of_pictures(texts, CONFIG, has_features=False)
    assert 8000 < texts.lengths.max() <= 8192
    found = num_bytes(Collator(0)([texts[index] for index in range(8)]))
    assert found <= heaviest_batch(pictures, texts.lengths, size=8) < 1.5 * found


def test_row_is_filled_with_what_is_heaviest_for_its_length() -> None:
    """30 tokens: both records of 10 tokens and 50 bytes each, and half of one of 20 tokens and 40 bytes."""
    pictures, lengths = np.array([40.0, 50.0, 1.0, 50.0]), np.array([20, 10, 30, 10], np.int32)
    assert heaviest_row(pictures, lengths, capacity=30) == 120 + 30 * 36 + 2**16
    assert heaviest_row(pictures, lengths, capacity=10**9) == 141 + 70 * 36 + 2**16
    assert heaviest_batch(pictures, lengths, size=3) == 140 + 3 * 30 * 36 + 2**16
    assert heaviest_batch(pictures, lengths, size=9) == 141 + 4 * 30 * 36 + 2**16


def test_record_that_nobody_has_measured_counts_as_one_long_picture(dataset: ConversationDataset) -> None:
    fresh = ConversationDataset(dataset.records, dataset.processor, max_length=512)
    assert set(fresh.lengths) == set(fresh.num_image_tokens) == {512}
    assert (fresh.lengths > dataset.lengths).all()


def test_features_of_a_frozen_tower_are_counted_where_they_come_instead_of_pixels(dataset: ConversationDataset) -> None:
    pixels, features = (bytes_of_pictures(dataset, CONFIG, has_features=has).max() for has in (False, True))
    assert features >= pixels


@pytest.mark.parametrize(
    ("free", "meant", "workers", "said"),
    [
        (None, 2, Workers(2, 2), None),
        (64 * MIB, 2, Workers(2, 2), None),
        (64 * MIB, 0, Workers(0, 0), None),
        (
            0,
            2,
            Workers(0, 0),
            "0 for training and 0 for evaluation instead of 2, because /dev/shm has 0 bytes free, and",
        ),
    ],
)
def test_fewer_workers_are_started_where_there_is_no_room(
    dataset: ConversationDataset, tmp_path: Path, free: int | None, meant: int, workers: Workers, said: str | None
) -> None:
    found, notices = settle(dataset, tmp_path, free, meant)
    assert found == workers
    assert len(notices) == (0 if said is None else 1)
    assert said is None or said in notices[0]
    assert said is None or "`docker run --ipc=host`" in notices[0]


def test_evaluation_has_what_training_leaves(dataset: ConversationDataset, tmp_path: Path) -> None:
    """Its workers run while those of training wait with their batches."""
    plenty = next(size for size in range(0, 64 * MIB, 2**14) if settle(dataset, tmp_path, size, 2)[0] == Workers(2, 2))
    for_training = next(size for size in range(0, plenty, 2**14) if settle(dataset, tmp_path, size, 2)[0].training == 2)
    assert for_training < plenty
    found, (said,) = settle(dataset, tmp_path, for_training, 2)
    assert found == Workers(2, 0)
    assert said.startswith("data workers in each process: 0 for evaluation instead of 2, because /dev/shm has")


def settle(dataset: ConversationDataset, folder: Path, free: int | None, meant: int) -> tuple[Workers, list[str]]:
    args = TrainingArguments(
        output_dir=str(folder), dataloader_num_workers=meant, per_device_eval_batch_size=2, use_cpu=True
    )
    return resolve_workers(
        replace(CPU, shared_bytes=free),
        args,
        CONFIG,
        train=dataset,
        plan=RowPlanner(dataset.lengths.tolist(), capacity=400),
        validation={"": dataset},
        has_features=False,
    )
