"""What a sample is does not depend on who it is batched with."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor

from minicpmv.data.records.record import Record
from minicpmv.data.samples.collation import Collator
from minicpmv.data.samples.dataset import ConversationDataset
from minicpmv.data.sources.loading import load_records
from minicpmv.processing.processor import MiniCPMVProcessor
from tests.parity.cases import VERSIONS
from tests.tiny import FIXTURES, conversation, save_picture, write_data


def mixed_records(folder: Path) -> list[Record]:
    """Make one record of every kind."""
    for path, size in (("small.png", (40, 30)), ("wide.png", (150, 60)), ("tall.png", (60, 110))):
        save_picture(folder / path, *size)
    records = [
        {"id": "text", "conversations": conversation("How are you?", "I am fine.", "And now?", "ok")},
        {"id": "small", "image": "small.png", "conversations": conversation("<image>\nWhat is it?", "A cat.")},
        {
            "id": "both",
            "image": ["wide.png", "tall.png"],
            "conversations": conversation("<image>\n<image>\nWhich?", "One."),
        },
        {"id": "short", "conversations": conversation("Hm?", "ok")},
        {
            "id": "late",
            "image": ["tall.png"],
            "conversations": conversation("Hi!", "Hi.", "<ImageHere>\nThis?", "A dog."),
        },
    ]
    return list(load_records(write_data(folder / "train.json", records)))


def mixed_items(name: str, folder: Path) -> tuple[list[dict[str, Tensor]], int]:
    """Encode one record of every kind; also return the tokens per slice."""
    processor = MiniCPMVProcessor.from_pretrained(FIXTURES / name)
    return list(ConversationDataset(mixed_records(folder), processor, max_length=1024)), processor.query_num


def take_out(batch: dict[str, Tensor], row: int, query_num: int) -> dict[str, Tensor]:
    """Undo the collator for one row."""
    length = int(batch["attention_mask"][row].sum())
    item = {name: batch[name][row, :length] for name in ("input_ids", "labels")}
    mask = batch.get("image_mask", torch.zeros_like(batch["input_ids"], dtype=torch.bool))
    item["image_mask"] = mask[row, :length]
    sizes = batch.get("tgt_sizes", torch.empty(0, 2, dtype=torch.int64))
    first, last = (int(mask[:stop].sum()) // query_num for stop in (row, row + 1))
    item["tgt_sizes"] = sizes[first:last]
    patches = [int(sizes[:stop].prod(dim=1).sum()) for stop in (first, last)]
    item["pixel_values"] = batch.get("pixel_values", torch.empty(0, 588, dtype=torch.uint8))[patches[0] : patches[1]]
    return item


@pytest.mark.parametrize("name", VERSIONS)
def test_alone_equals_taken_out_of_any_batch(name: str, tmp_path: Path) -> None:
    items, query_num = mixed_items(name, tmp_path)
    for size in (1, 2, 5):
        for rows in itertools.permutations(range(len(items)), size):
            batch = Collator(pad_token_id=0).join([items[row] for row in rows])
            for place, row in enumerate(rows):
                alone = take_out(batch, place, query_num)
                assert all(torch.equal(alone[key], items[row][key]) for key in alone), (rows, row)
                assert items[row].keys() - alone.keys() == {"pixel_table"}
                if len(alone["pixel_values"]):
                    assert torch.equal(batch["pixel_table"], items[row]["pixel_table"])


@pytest.mark.parametrize("name", VERSIONS)
def test_image_slots_equal_slices_times_query_tokens(name: str, tmp_path: Path) -> None:
    items, query_num = mixed_items(name, tmp_path)
    for item in items:
        assert int(item["image_mask"].sum()) == len(item["tgt_sizes"]) * query_num
        assert len(item["pixel_values"]) == int(item["tgt_sizes"].prod(dim=1).sum())
        assert not (item["image_mask"] & (item["labels"] != -100)).any()


def test_padding_is_neither_attended_nor_trained(tmp_path: Path) -> None:
    items, _ = mixed_items("v2_6", tmp_path)
    batch = Collator(pad_token_id=7).join(items)
    padding = batch["attention_mask"] == 0
    assert (batch["input_ids"][padding] == 7).all()
    assert (batch["labels"][padding] == -100).all()
    assert not batch["image_mask"][padding].any()
