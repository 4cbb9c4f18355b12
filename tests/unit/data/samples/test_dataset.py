from __future__ import annotations

import logging
import pickle
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from minicpmv.data.records.record import Record
from minicpmv.data.samples.collation import Collator
from minicpmv.data.samples.dataset import ConversationDataset
from minicpmv.data.sources.loading import load_records
from minicpmv.errors import ConfigError, DataError
from minicpmv.processing.processor import MiniCPMVProcessor
from tests.parity.cases import VERSIONS
from tests.tiny import FIXTURES, conversation, save_picture, write_data


@cache
def processor_of(name: str) -> MiniCPMVProcessor:
    return MiniCPMVProcessor.from_pretrained(FIXTURES / name)


def records_in(folder: Path, *records: dict[str, Any]) -> Sequence[Record]:
    return load_records(write_data(folder / "train.json", list(records)))


def large_and_long(folder: Path) -> Sequence[Record]:
    """Make a record with one picture of four tiles, and one that is only text."""
    save_picture(folder / "large.png", 112, 112)
    return records_in(
        folder,
        {"id": "large", "image": "large.png", "conversations": conversation("<image>\nWhat is it?", "A cat.")},
        {"id": "text", "conversations": conversation("How are you?", "I am fine.")},
    )


def with_limit(folder: Path, max_length: int, name: str = "v2_6") -> ConversationDataset:
    return ConversationDataset(large_and_long(folder), processor_of(name), max_length=max_length)


@pytest.mark.parametrize("name", VERSIONS)
def test_items_are_what_the_processor_encodes(tmp_path: Path, name: str) -> None:
    records = large_and_long(tmp_path)
    dataset = ConversationDataset(records, processor_of(name), max_length=512)
    for record, item in zip(records, dataset, strict=True):
        expected = processor_of(name).encode_conversation(record.turns, record.images)
        assert item["input_ids"].tolist() == expected.input_ids
        assert item["labels"].tolist() == expected.labels
        assert item["image_mask"].tolist() == expected.image_mask
        assert item["tgt_sizes"].tolist() == [list(size) for size in expected.tgt_sizes]
        torch.testing.assert_close(item["pixel_values"], torch.from_numpy(expected.pixel_values), rtol=0, atol=0)


def test_items_have_the_promised_types(tmp_path: Path) -> None:
    for item, num_slices in zip(with_limit(tmp_path, 512), (5, 0), strict=True):
        assert {key: value.dtype for key, value in item.items()} == {
            "input_ids": torch.int64,
            "labels": torch.int64,
            "image_mask": torch.bool,
            "pixel_values": torch.uint8,
            "pixel_table": torch.float32,
            "tgt_sizes": torch.int64,
        }
        assert item["pixel_table"].shape == (3, 256)
        assert item["tgt_sizes"].shape == (num_slices, 2)
        assert item["pixel_values"].shape == (item["tgt_sizes"].prod(dim=1).sum(), 588)
        assert item["image_mask"].sum() == num_slices * 4


def test_lengths_need_no_pixels(tmp_path: Path) -> None:
    dataset = with_limit(tmp_path, 512)
    (tmp_path / "large.png").unlink()
    assert len(dataset.check_lengths().lengths) == 2


@pytest.mark.parametrize("name", VERSIONS)
def test_report_agrees_with_the_items(tmp_path: Path, name: str) -> None:
    dataset = with_limit(tmp_path, 512, name)
    report = dataset.check_lengths()
    assert report.lengths.tolist() == [len(item["input_ids"]) for item in dataset]
    assert report.num_trained.tolist() == [int((item["labels"] != -100).sum()) for item in dataset]
    assert report.num_image_tokens.tolist() == [int(item["image_mask"].sum()) for item in dataset]
    assert report.num_reduced == report.num_cut == 0


def test_too_long_gets_fewer_slices_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    full = len(with_limit(tmp_path, 512)[0]["input_ids"])
    dataset = with_limit(tmp_path, full - 1)
    with caplog.at_level(logging.WARNING):
        report = dataset.check_lengths()
    (message,) = caplog.messages
    assert f"1 of 2 records exceed {full - 1} tokens and get fewer slices" in message
    assert "record 0 (id 'large')" in message
    fit = dataset.fit(0)
    assert (report.num_reduced, fit.wanted, fit.max_slice_nums) == (1, full, 3)
    assert report.lengths[0] == fit.length == len(dataset[0]["input_ids"]) < full
    expected = processor_of("v2_6").encode_conversation(
        dataset.records[0].turns, dataset.records[0].images, max_slice_nums=3
    )
    assert dataset[0]["input_ids"].tolist() == expected.input_ids


def test_slices_go_down_to_the_overview(tmp_path: Path) -> None:
    records = large_and_long(tmp_path)
    shortest = len(processor_of("v2_6").encode_text(records[0].turns, [(112, 112)], max_slice_nums=1).input_ids)
    item = ConversationDataset(records, processor_of("v2_6"), max_length=shortest)[0]
    assert (len(item["input_ids"]), len(item["tgt_sizes"])) == (shortest, 1)


def test_d201_too_long_with_one_slice(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        with_limit(tmp_path, 20).check_lengths()
    large, text = caught.value.problems
    assert large.code == text.code == "D201"
    assert large.where == f"{tmp_path / 'train.json'}:2 record 0 (id 'large')"
    assert large.found.endswith("tokens, 4 of them for images with one slice each")
    assert large.expected == "at most 20 (--model_max_length)"
    length = int(text.found.split()[0])
    assert text.fix == f"set --model_max_length to {length} or more, or shorten or split the conversation"
    with pytest.raises(DataError, match="D201"):
        with_limit(tmp_path, 20)[1]


def test_fewer_slices_by_setting(tmp_path: Path) -> None:
    dataset = ConversationDataset(large_and_long(tmp_path), processor_of("v2_6"), max_length=512, max_slice_nums=1)
    assert len(dataset[0]["tgt_sizes"]) == 1
    assert dataset.check_lengths().num_reduced == 0


@pytest.mark.parametrize(
    ("name", "settings"), [("model_max_length", {"max_length": 0}), ("max_slice_nums", {"max_slice_nums": 0})]
)
def test_limits_must_be_positive(name: str, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"{name}: found 0, expected at least 1"):
        ConversationDataset([], processor_of("v2_6"), max_length=settings.pop("max_length", 8), **settings)


def test_d202_image_that_breaks_during_the_run(tmp_path: Path) -> None:
    dataset = with_limit(tmp_path, 512)
    dataset.check_lengths()
    (tmp_path / "large.png").write_bytes(b"gone")
    with pytest.raises(DataError) as caught:
        dataset[0]
    (problem,) = caught.value.problems
    assert problem.code == "D202"
    assert problem.where.endswith("train.json:2 record 0 (id 'large') image 0")
    assert "whose header and end looked sound" in problem.found


def test_d203_image_that_changes_its_size_during_the_run(tmp_path: Path) -> None:
    dataset = with_limit(tmp_path, 512)
    save_picture(tmp_path / "large.png", 20, 20)
    with pytest.raises(DataError, match=r"record 0 \(id 'large'\) image: \[D203\]"):
        dataset[0]


def test_sizes_are_looked_up_when_nobody_did(tmp_path: Path) -> None:
    (record, _) = large_and_long(tmp_path)
    bare = Record(source="memory", index=0, images=record.images, turns=record.turns)
    settings: dict[str, Any] = {"processor": processor_of("v2_6"), "max_length": 512}
    lengths = [ConversationDataset([one], **settings).check_lengths().lengths for one in (bare, record)]
    assert lengths[0].tolist() == lengths[1].tolist()


def test_errors_survive_pickling(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        with_limit(tmp_path, 20).check_lengths()
    again = pickle.loads(pickle.dumps(caught.value))  # noqa: S301  our own bytes
    assert str(again) == str(caught.value)
    assert again.problems == caught.value.problems


def test_errors_of_a_worker_read_like_any_other(tmp_path: Path) -> None:
    dataset = with_limit(tmp_path, 512)
    (tmp_path / "large.png").unlink()
    with pytest.raises(DataError) as here:
        dataset[0]
    with pytest.raises(DataError) as there:
        next(iter(DataLoader(dataset, batch_size=1, num_workers=1, collate_fn=Collator(0))))
    assert str(there.value) == str(here.value)


@pytest.mark.parametrize("start", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_give_the_same_items(tmp_path: Path, start: str) -> None:
    dataset = with_limit(tmp_path, 512)
    loader = DataLoader(
        dataset, batch_size=1, num_workers=1, collate_fn=Collator(0), multiprocessing_context=start, shuffle=False
    )
    for here, there in zip(DataLoader(dataset, batch_size=1, collate_fn=Collator(0)), loader, strict=True):
        assert here.keys() == there.keys()
        ours, theirs = here.pop("layout"), there.pop("layout")
        assert theirs.sizes == ours.sizes
        assert theirs.label_places.equal(ours.label_places)
        for key in here:
            torch.testing.assert_close(there[key], here[key], rtol=0, atol=0)


def test_many_records_are_measured_alike_by_several_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_picture(tmp_path / "large.png", 112, 112)
    records = records_in(
        tmp_path,
        *(
            {"id": str(i), "conversations": conversation("Why?", "word " * (1 + 13 * i % 40))}
            | ({"image": "large.png"} if i % 3 == 0 else {})
            for i in range(30)
        ),
    )
    settings: dict[str, Any] = {"max_length": 40, "on_long_record": "skip"}
    alone = ConversationDataset(records, processor_of("v2_6"), **settings)
    together = ConversationDataset(records, processor_of("v2_6"), **settings)
    expected = alone.check_lengths()
    monkeypatch.setattr("minicpmv.data.samples.token_counts._SHARE", 4)
    monkeypatch.setattr("minicpmv.data.samples.token_counts._WORTH_PROCESSES", 1)
    found = together.check_lengths()
    assert found.lengths.tolist() == expected.lengths.tolist()
    assert found.left_out == expected.left_out
    assert len(found.lengths) + len(found.left_out) == 30
    assert [together.fit(index) for index in range(len(together))] == [alone.fit(index) for index in range(len(alone))]
