"""``minicpmv show`` as a user types it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from minicpmv.data.samples.dataset import ConversationDataset
from minicpmv.data.sources.loading import load_records
from minicpmv.processing.processor import MiniCPMVProcessor
from tests.parity.cases import FIXTURES
from tests.run.forked import minicpmv
from tests.run.test_chat import SLICED
from tests.tiny import conversation, write_data
from tests.unit.show.pages import read_page


def write_records(folder: Path, version: str) -> str:
    shutil.copy(FIXTURES / version / SLICED, folder / "wide.png")
    records: list[dict[str, Any]] = [
        {
            "id": "a",
            "image": "wide.png",
            "conversations": conversation("<image>\nWhat is it?", "Noise.", "So?", "Yes."),
        },
        {"id": "b", "conversations": conversation("你好", "<script>alert(1)</script>")},
        {"conversations": conversation("Third", "3")},
    ]
    return write_data(folder / "train.json", records)


@pytest.mark.parametrize(("version", "limit"), [("v2", 48), ("v2_6", 64), ("v4_5", 64)])
def test_the_page_shows_what_training_reads(tmp_path: Path, version: str, limit: int) -> None:
    data, output = write_records(tmp_path, version), tmp_path / "page.html"
    done = minicpmv("show", data, "--model", FIXTURES / version, "--output", output, "--model-max-length", str(limit))
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"3 of 3 records: {output}\n"
    page = read_page(output.read_text(encoding="utf-8"))
    dataset = ConversationDataset(
        load_records(data), MiniCPMVProcessor.from_pretrained(FIXTURES / version), max_length=limit
    )
    assert [(record.ids, record.labels) for record in page.records] == [
        (item["input_ids"].tolist(), item["labels"].tolist()) for item in dataset
    ]
    assert "Fewer slices." in page.text
    assert [link for link in page.links if not link.startswith(("#", "data:image/"))] == []


def test_a_cut_answer_is_shown_as_it_is_trained(tmp_path: Path) -> None:
    data, output = write_records(tmp_path, "v2_6"), tmp_path / "page.html"
    command = ["show", data, "--model", FIXTURES / "v2_6", "--record", "b", "--output", output]
    done = minicpmv(*command, "--model-max-length", "40", "--truncate-answers")
    assert done.returncode == 0, done.stderr
    page = read_page(output.read_text(encoding="utf-8"))
    processor = MiniCPMVProcessor.from_pretrained(FIXTURES / "v2_6")
    dataset = ConversationDataset(load_records(data), processor, max_length=40, truncate_answers=True)
    (record,) = page.records
    assert (record.ids, record.labels) == (dataset[1]["input_ids"].tolist(), dataset[1]["labels"].tolist())
    assert len(record.ids) == 40
    assert f"Its last answer loses its final {dataset.fit(1).num_cut}" in page.text


def test_named_records_stand_in_the_order_of_their_names(tmp_path: Path) -> None:
    data, output = write_records(tmp_path, "v2_6"), tmp_path / "page.html"
    done = minicpmv("show", data, "--model", FIXTURES / "v2_6", "--record", "2", "a", "--output", output)
    assert done.returncode == 0, done.stderr
    text = read_page(output.read_text(encoding="utf-8")).text
    assert len(read_page(output.read_text(encoding="utf-8")).records) == 2
    assert text.index("record 2\n") < text.index("train.json:2, record 0")


def test_a_sample_says_how_it_was_drawn(tmp_path: Path) -> None:
    data, output = write_records(tmp_path, "v2_6"), tmp_path / "page.html"
    done = minicpmv("show", data, "--model", FIXTURES / "v2_6", "--sample", "1", "--seed", "5", "--output", output)
    assert done.stdout == f"1 of 3 records: {output}\n", done.stderr
    assert "1 of 3, drawn with seed 5" in output.read_text(encoding="utf-8")


def test_unsound_data_is_refused_with_the_report_of_training(tmp_path: Path) -> None:
    data = write_data(tmp_path / "train.json", [{"id": "a", "conversations": conversation("<image>\nWhy?", "So.")}])
    done = minicpmv("show", data, "--model", FIXTURES / "v2_6", "--output", tmp_path / "page.html")
    assert done.returncode == 2
    assert "[D133] found 1 placeholder for 0 images" in done.stderr
    assert not (tmp_path / "page.html").exists()


def test_broken_records_are_counted_and_hide_no_other(tmp_path: Path) -> None:
    output = tmp_path / "page.html"
    good, bad = conversation("Why?", "So."), conversation("<image>\nWhy?", "So.")
    talks = {"a": good, "b": bad, "c": good, "d": bad}
    data = write_data(tmp_path / "train.json", [{"id": name, "conversations": talk} for name, talk in talks.items()])
    done = minicpmv("show", data, "--model", FIXTURES / "v2_6", "--record", "c", "--output", output)
    assert done.returncode == 0, done.stderr
    command = f"minicpmv check {data} --model {FIXTURES / 'v2_6'}"
    first, second = done.stdout.splitlines()
    assert first == f"1 of 4 records: {output}"
    assert second.startswith("2 with problems")
    assert f"`{command}`" in second
    page = read_page(output.read_text(encoding="utf-8"))
    assert len(page.records) == 1
    assert "1 of 4; 2 with problems left out" in page.text
    assert minicpmv(*command.split()[1:]).returncode == 1

    output.unlink()
    done = minicpmv("show", data, "--model", FIXTURES / "v2_6", "--record", "a", "d", "--output", output)
    assert done.returncode == 2
    assert done.stderr.count("[D133]") == 1
    assert "record 3 (id 'd')" in done.stderr
    assert not output.exists()


def test_the_data_file_is_never_overwritten(tmp_path: Path) -> None:
    data = write_records(tmp_path, "v2_6")
    done = minicpmv("show", data, "--model", FIXTURES / "v2_6", "--output", data)
    assert done.returncode == 2
    assert "the data file itself" in done.stderr
    assert len(json.loads(Path(data).read_text(encoding="utf-8"))) == 3


def test_only_a_page_of_records_is_replaced_by_one(tmp_path: Path) -> None:
    data, page, other = write_records(tmp_path, "v2_6"), tmp_path / "page.html", tmp_path / "report.html"
    other.write_text('<!doctype html><meta name="generator" content="minicpmv report">', encoding="utf-8")
    command = ["show", data, "--model", FIXTURES / "v2_6", "--record", "b", "--output"]
    done = minicpmv(*command, other)
    assert done.returncode == 2
    assert done.stderr.startswith(
        f"error: --output {str(other)!r}: found a file there that is not a page of `minicpmv show`"
    )
    assert "minicpmv report" in other.read_text(encoding="utf-8")
    for _ in range(2):
        done = minicpmv(*command, page)
        assert done.returncode == 0, done.stderr


def test_a_model_that_is_not_there_is_named_without_a_traceback(tmp_path: Path) -> None:
    data = write_records(tmp_path, "v2_6")
    done = minicpmv("show", data, "--model", "nowhere", "--output", tmp_path / "page.html")
    assert done.returncode == 2
    assert done.stderr.startswith("error: model: found no directory 'nowhere', expected a model's")


def test_a_folder_that_is_not_there_is_named_before_anything_is_read(tmp_path: Path) -> None:
    done = minicpmv("show", "nowhere.json", "--model", "nowhere", "--output", tmp_path / "missing" / "page.html")
    assert done.returncode == 2
    assert ": found no folder" in done.stderr
