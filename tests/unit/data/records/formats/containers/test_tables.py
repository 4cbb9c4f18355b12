from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from minicpmv.data.records.reading import read_records
from minicpmv.data.sources.loading import load_records
from minicpmv.errors import DataError, UsageError
from minicpmv.processing.pictures.patches import load_image
from minicpmv.processing.text.turns import ImageRef, Turn
from tests.tiny import conversation, picture, save_picture

pa = pytest.importorskip("pyarrow", reason="needs the extra `data`")
pq = pytest.importorskip("pyarrow.parquet")

TURNS = (Turn("user", (ImageRef(0), "Why?")), Turn("assistant", ("So.",)))


def image_bytes(folder: Path) -> bytes:
    return Path(save_picture(folder / "bytes" / "a.png")).read_bytes()


def save_to_disk(folder: Path, rows: list[dict[str, Any]], *, shards: int = 1) -> Path:
    """Write what ``datasets`` writes: Arrow streams, and state.json that lists them in order."""
    folder.mkdir(parents=True)
    table = pa.Table.from_pylist(rows)
    names = [f"data-{number:05d}-of-{shards:05d}.arrow" for number in range(shards)]
    for number, name in enumerate(names):
        part = table.slice(
            number * len(rows) // shards, (number + 1) * len(rows) // shards - number * len(rows) // shards
        )
        with pa.OSFile(str(folder / name), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(part)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    (folder / "dataset_info.json").write_text("{}")
    return folder


def rows(folder: Path) -> list[dict[str, Any]]:
    save_picture(folder / "a.png")
    data = image_bytes(folder)
    parts = [
        {"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "Why?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "So."}]},
    ]
    return [
        {"id": 1, "images": [{"bytes": data, "path": None}], "messages": parts},
        {"id": 2, "images": [{"bytes": None, "path": "a.png"}], "messages": parts},
        {"id": 3, "images": [], "messages": [{**parts[0], "content": parts[0]["content"][1:]}, parts[1]]},
    ]


def check(records: Sequence[Any]) -> None:
    assert [record.id for record in records] == [1, 2, 3]
    assert [record.turns for record in records[:2]] == [TURNS, TURNS]
    assert records[2].turns[0].content == ("Why?",)
    for record in records[:2]:
        assert load_image(record.images[0]).tobytes() == picture().tobytes()
    assert isinstance(records[0].images[0], bytes)


@pytest.mark.parametrize("name", ["train.parquet", "train.json", "train"])
def test_parquet_is_known_by_its_content(tmp_path: Path, name: str) -> None:
    pq.write_table(pa.Table.from_pylist(rows(tmp_path)), tmp_path / name)
    check(load_records(tmp_path / name))


@pytest.mark.parametrize("shards", [1, 2])
def test_saved_dataset_directory(tmp_path: Path, shards: int) -> None:
    made = rows(tmp_path / "saved_pictures")
    folder = save_to_disk(tmp_path / "saved", made, shards=shards)
    save_picture(folder / "a.png")
    check(load_records(folder))
    check(load_records(folder, image_root=tmp_path / "saved_pictures"))


def test_null_columns_are_absent(tmp_path: Path) -> None:
    made = [
        {"image": None, "conversations": [message | {"from": None} for message in conversation("Why?", "So.")]},
        {"image": b"x", "conversations": None},
    ]
    pq.write_table(pa.Table.from_pylist(made), tmp_path / "train.parquet")
    assert read_records(tmp_path / "train.parquet")[0].value == {"conversations": conversation("Why?", "So.")}


def test_problems_name_the_row(tmp_path: Path) -> None:
    file = tmp_path / "train.parquet"
    pq.write_table(
        pa.Table.from_pylist([{"id": "a", "image": b"no image", "conversations": conversation("a", "")}]), file
    )
    with pytest.raises(DataError) as caught:
        load_records(file)
    assert [(problem.code, problem.where) for problem in caught.value.problems] == [
        ("D126", f"{file} record 0 (id 'a') conversations[1].content"),
        ("D142", f"{file} record 0 (id 'a') image"),
    ]


def test_a_dict_of_splits_asks_for_one(tmp_path: Path) -> None:
    save_to_disk(tmp_path / "saved" / "train", rows(tmp_path))
    (tmp_path / "saved" / "dataset_dict.json").write_text('{"splits": ["train"]}')
    with pytest.raises(DataError, match="found a dataset of several splits: train") as caught:
        read_records(tmp_path / "saved")
    assert caught.value.problems[0].fix == f"name it: {tmp_path / 'saved' / 'train'}"


def test_d108_damaged_tables(tmp_path: Path) -> None:
    file = tmp_path / "train.parquet"
    pq.write_table(pa.Table.from_pylist(rows(tmp_path)), file)
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"\[D108\] found Parquet data that cannot be read"):
        read_records(file)
    folder = save_to_disk(tmp_path / "saved", rows(tmp_path), shards=2)
    (arrow,) = folder.glob("data-00001*")
    whole = arrow.read_bytes()
    arrow.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"\[D108\] found Arrow data that cannot be read"):
        read_records(folder)
    arrow.write_bytes(b"hello")
    with pytest.raises(DataError, match=r"\[D108\].*it begins like no table"):
        read_records(folder)
    arrow.unlink()
    with pytest.raises(DataError, match=r"\[D108\] found no file 'data-00001-of-00002.arrow'"):
        read_records(folder)
    (folder / "state.json").write_text("{")
    with pytest.raises(DataError, match=r"\[D108\] found a state.json that lists no data files"):
        read_records(folder)


def test_without_pyarrow_the_install_line_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "train.parquet").write_bytes(b"PAR1....PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match=r"fix: .* install 'minicpmv-finetune\[data\]'"):
        read_records(tmp_path / "train.parquet")
