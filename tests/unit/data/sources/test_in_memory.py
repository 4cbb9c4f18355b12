from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from minicpmv.data.sources.in_memory import hold_records, load_held, write_records
from minicpmv.data.sources.loading import load_records
from minicpmv.errors import DataError, UsageError
from tests.tiny import conversation, picture, save_picture


class Dataset:
    """As ``datasets.Dataset``: neither a list nor a mapping, and yields dicts with Pillow's images."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows)


def test_records_of_any_holder_become_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pandas = pytest.importorskip("pandas")
    monkeypatch.chdir(tmp_path)
    save_picture(tmp_path / "a.png")
    rows = [
        {"id": "1", "image": "a.png", "conversations": conversation("<image>\nWhat?", "This.")},
        {"id": "2", "conversations": conversation("Why?", "So.")},
    ]
    table = pandas.DataFrame(rows)  # the second image is NaN
    table["conversations"] = [np.array(each["conversations"], dtype=object) for each in rows]
    held = [rows, tuple(rows), Dataset(rows), (row for row in rows), table]
    files = {write_records(hold_records(each, name="data"), tmp_path / "kept", image_root=None) for each in held}
    (file,) = files
    first, second = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    assert first["image"] == str(tmp_path / "a.png")
    assert "image" not in second
    assert load_records(file)[0].images == (str(tmp_path / "a.png"),)


@pytest.mark.parametrize("place", ["image", "part"])
def test_pillow_s_image_keeps_every_pixel(place: str, tmp_path: Path) -> None:
    shown = picture(30, 20)
    if place == "image":
        row: dict[str, Any] = {"image": shown, "conversations": conversation("<image>\nWhat?", "This.")}
    else:
        content = [{"type": "image", "image": shown}, {"type": "text", "text": "What?"}]
        row = {"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": "This."}]}
    file = write_records(hold_records([row], name="data"), tmp_path, image_root=None)
    for record in (load_records(file)[0], load_held([row], name="data")[0]):
        (data,) = record.images
        assert isinstance(data, bytes)
        (tmp_path / "b.png").write_bytes(data)
        assert np.array_equal(np.asarray(Image.open(tmp_path / "b.png")), np.asarray(shown))


def test_faulty_record_is_named_by_its_index(tmp_path: Path) -> None:
    rows = [
        {"conversations": conversation("Why?", "So.")},
        {"image": "gone.png", "conversations": conversation("a", "b")},
    ]
    with pytest.raises(DataError) as caught:
        write_records(hold_records(rows, name="eval_data"), tmp_path, image_root=tmp_path)
    assert str(caught.value).startswith("eval_data record 1 image")
    with pytest.raises(DataError, match=r"^records record 0 conversations: \[D116\]"):
        load_held([{"conversations": conversation("a")}], name="records")


@pytest.mark.parametrize(
    ("held", "found"),
    [
        (3, "found a int, expected a path"),
        ({"train": [], "test": []}, "found a dict with train, test, expected a path"),
        ([1], "data, one of its records: found a int"),
        (None, "found a NoneType"),
    ],
)
def test_what_holds_no_records_is_refused(held: object, found: str) -> None:
    with pytest.raises(UsageError, match=found):
        hold_records(held, name="data")


def test_nothing_of_pandas_but_a_table_holds_records() -> None:
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame([{"question": "Why?", "answer": "So."}])
    for held, name in ((table["answer"], "Series"), (table.iloc[0], "Series"), (table.columns, "Index")):
        with pytest.raises(UsageError, match=f"data: found a {name}, expected a path"):
            hold_records(held, name="data")

    class Table(pandas.DataFrame):  # as GeoPandas' tables
        pass

    assert hold_records(Table(table), name="data")[0].is_row


def test_no_records_are_refused() -> None:
    with pytest.raises(DataError, match="no record"):
        hold_records([], name="data")


def test_array_of_pixels_is_refused_by_the_name_of_its_field() -> None:
    for pixels in (np.asarray(picture()), np.zeros((4, 4), np.uint8)):
        record = {"image": [pixels], "conversations": conversation("<image>\nWhat?", "This.")}
        with pytest.raises(UsageError, match=r"data record 1 image: found an array of shape \(.*\n.*Image.fromarray"):
            hold_records([{"conversations": conversation("Why?", "So.")}, record], name="data")
