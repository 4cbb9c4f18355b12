"""``minicpmv convert``: any form becomes ours, and training cannot tell the difference."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from minicpmv.cli.main import main
from minicpmv.data.records.record import Record
from minicpmv.data.sources.loading import load_records
from minicpmv.processing.pictures.patches import load_image
from tests.tiny import conversation, save_picture, write_data

SHAREGPT = [{"from": "human", "value": "<image>\nWhy?"}, {"from": "gpt", "value": "So \u2028 é."}]


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_picture(Path("data/images/a.png"))
    save_picture(Path("data/b.jpg"), 30, 20)


def make_data(**more: Any) -> str:
    url = "data:image/png;base64," + base64.b64encode(Path("data/images/a.png").read_bytes()).decode()
    parts = [{"type": "image_url", "image_url": {"url": path}} for path in (url, "b.jpg")]
    records: list[dict[str, Any]] = [
        {"id": "s", "images": "images/a.png", "conversations": SHAREGPT, **more},
        {
            "id": 5,
            "image": {"<image_01>": "b.jpg", "<image_00>": "images/a.png"},
            "conversations": conversation("<image_00> or <image_01>", "So."),
        },
        {"messages": [{"role": "user", "content": [*parts, {"type": "text", "text": "Why?"}]},
                      {"role": "assistant", "content": "So."}]},
        {"image": str(Path("data/b.jpg").resolve()), "conversations": conversation("Why?", "So.")},
        {"conversations": [{"role": "system", "content": "Be brief."}, *conversation("Why?", "So.")]},
    ]  # fmt: skip
    return write_data(Path("data/train.json"), records)


def content(records: Sequence[Record]) -> list[Any]:
    """Return what training sees of records: ids, turns and pixels."""
    return [
        (record.id, record.turns, [load_image(image).tobytes() for image in record.images], record.image_sizes)
        for record in records
    ]


@pytest.mark.parametrize("extra", [[], ["--image-dir", "elsewhere/pictures"]])
@pytest.mark.parametrize("output", ["data/out.jsonl", "new/folder/out.jsonl", "out.jsonl"])
def test_converted_records_are_the_same_and_convert_to_themselves(output: str, extra: list[str]) -> None:
    data = make_data()
    assert main(["convert", data, "--output", output, *extra]) == 0
    assert content(load_records(output)) == content(load_records(data))
    lines = [json.loads(line) for line in Path(output).read_text(encoding="utf-8").split("\n")[:-1]]
    assert [list(line) for line in lines] == [
        ["id", "image", "conversations"],
        ["id", "image", "conversations"],
        ["image", "conversations"],
        ["image", "conversations"],
        ["conversations"],
    ]
    again = str(Path(output).with_name("again.jsonl"))
    assert main(["convert", output, "--output", again]) == 0
    assert Path(again).read_bytes() == Path(output).read_bytes()


def test_embedded_images_become_files_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", make_data(), "--output", "out.jsonl", "--image-dir", "pictures"]) == 0
    (file,) = Path("pictures").iterdir()
    assert file.read_bytes() == Path("data/images/a.png").read_bytes()
    record = json.loads(Path("out.jsonl").read_text(encoding="utf-8").split("\n")[2])
    assert record["image"] == [f"pictures/{file.name}", "data/b.jpg"]
    assert record["conversations"][0] == {"role": "user", "content": "<image>\n<image>\nWhy?"}
    assert capsys.readouterr().out == "Wrote 5 records to out.jsonl\n"


def test_image_root_of_the_data_is_written_into_the_paths() -> None:
    data = write_data(Path("train.json"), [{"image": "a.png", "conversations": conversation("Why?", "So.")}])
    assert main(["convert", data, "--image-root", "data/images", "--output", "out.jsonl"]) == 0
    assert [Path(str(record.images[0])).name for record in load_records("out.jsonl")] == ["a.png"]


def test_paths_are_right_beyond_linked_folders() -> None:
    save_picture(Path("far/away/images/c.png"))
    record = {"image": "../away/images/c.png", "conversations": conversation("Why?", "So.")}
    write_data(Path("far/away/train.json"), [record])
    Path("near").symlink_to("far/away", target_is_directory=True)
    Path("other/place").mkdir(parents=True)
    Path("link").symlink_to("other/place", target_is_directory=True)
    assert main(["convert", "near/train.json", "--output", "link/out.jsonl"]) == 0
    assert load_records("link/out.jsonl")
    assert load_records("other/place/out.jsonl")


def test_keys_that_are_left_out_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", make_data(model="x", source="y"), "--output", "out.jsonl"]) == 0
    assert "left out, because nothing here reads them: the keys model, source" in capsys.readouterr().err


def test_what_other_tools_write_is_the_same_after_converting() -> None:
    """Weights, thinking, instructions, boxes on their marks, and records without messages."""
    said = {"role": "assistant", "content": "5.", "reasoning": "2 + 3", "loss_weight": 0.5}
    records: list[dict[str, Any]] = [
        {"messages": [{"role": "user", "content": "2 + 3?"}, said], "system_prompt": "Count."},
        {"messages": [*conversation("Why?", "No."), *conversation("Why?", "So.")]},
        {"images": ["b.jpg"], "messages": conversation("<image>Where is <ref-object>?", "<bbox>"),
         "objects": {"ref": ["it"], "bbox": [[3, 2, 30, 20]]}},
        {"query": "Why?", "response": "So.", "history": [["How?", "Thus."]]},
        {"image": "b.jpg", "question": "What?", "answers": ["a", "b"]},
    ]  # fmt: skip
    records[1]["messages"][1]["train"] = False
    data = write_data(Path("data/others.json"), records)
    assert main(["convert", data, "--output", "out.jsonl"]) == 0
    before, after = load_records(data), load_records("out.jsonl")
    assert content(after) == content(before)
    assert [record.references for record in after] == [record.references for record in before]
    assert [turn.weight for record in after for turn in record.turns if turn.role == "assistant"][:3] == [0.5, 0, 1]
    assert after[0].turns[-1].text == "<think>\n2 + 3\n</think>\n\n5."
    assert after[2].turns[-1].text == "<box>100 100 1000 1000</box>"
    assert main(["convert", "out.jsonl", "--output", "again.jsonl"]) == 0
    assert Path("again.jsonl").read_bytes() == Path("out.jsonl").read_bytes()


def test_keys_that_matter_stop_unless_they_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    told = {"role": "assistant", "content": "So.", "score": 1, "reasoning_content": "Hm.", "name": "x"}
    record = {"loss_mask": False, "messages": [{"role": "user", "content": "Why?"}, told]}
    data = write_data(Path("kto.json"), [record])
    assert main(["convert", data, "--output", "out.jsonl"]) == 2
    assert not Path("out.jsonl").exists()
    error = capsys.readouterr().err
    assert "messages[1].score: [D160]" in error
    assert "loss_mask: [D160]" in error
    options = [text for key in ("loss_mask", "score", "reasoning_content") for text in ("--leave-out", key)]
    assert main(["convert", data, "--output", "out.jsonl", *options]) == 0
    left_out = "the keys loss_mask, messages: name, messages: reasoning_content, messages: score"
    assert left_out in capsys.readouterr().err
    assert json.loads(Path("out.jsonl").read_text()) == {"conversations": conversation("Why?", "So.")}


def test_references_are_kept_and_their_boxes_rewritten_too() -> None:
    save_picture(Path("a.png"), 400, 200)
    box = "<box>20 30 200 100</box>"
    fields = {"image": "a.png", "conversations": conversation("Where?", box), "references": [box, "There."]}
    data = write_data(Path("boxes.json"), [fields])
    assert main(["convert", data, "--pixel-boxes", "--output", "out.jsonl"]) == 0
    (record,) = load_records("out.jsonl")
    assert record.references == ("<box>50 150 500 500</box>", "There.")


def test_problems_of_all_files_are_named_and_nothing_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    data = make_data()
    Path("lines.jsonl").write_text('{"id" 1}\n{"id": "x", "conversations": []}\n')
    Path("out.jsonl").write_text("before")
    assert (
        main(
            ["convert", data, "lines.jsonl", "nope.json", "--output", "out.jsonl", "--image-dir", "new", "--overwrite"]
        )
        == 2
    )
    error = capsys.readouterr().err
    assert "lines.jsonl:1:7: [D102]" in error
    assert "lines.jsonl:2 record 1 (id 'x') conversations: [D116]" in error
    assert "nope.json: [D101]" in error
    assert Path("out.jsonl").read_text() == "before"
    assert not Path("new").exists()
    assert sorted(path.name for path in Path().iterdir()) == ["data", "lines.jsonl", "out.jsonl"]


def test_a_record_of_two_files_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    first, second = (
        write_data(Path(name), [{"id": 1, "conversations": conversation("a", "b")}]) for name in ("a", "b")
    )
    assert main(["convert", first, second, "--output", "out.jsonl"]) == 2
    assert "b:2 record 0 (id 1) id: [D114] found the same record as a:2 record 0 (id 1)," in capsys.readouterr().err


def test_different_records_of_two_files_may_share_an_id(capsys: pytest.CaptureFixture[str]) -> None:
    """So may those of one image path in two folders: they show different pictures."""
    paths: list[str] = []
    for number in (0, 1):
        picture = save_picture(Path(f"{number}/a.png"), seed=number)
        record = {"id": 1, "image": Path(picture).name, "conversations": conversation("a", "b")}
        paths.append(write_data(Path(f"{number}/train.json"), [record]))
    assert main(["convert", *paths, "--output", "out.jsonl"]) == 0
    found = capsys.readouterr().err
    assert "[D331] found 1 record with the id of a different record of another file: 1/train.json:2 record 0" in found
    assert [json.loads(line)["image"] for line in Path("out.jsonl").read_text().splitlines()] == ["0/a.png", "1/a.png"]
    assert main(["check", "out.jsonl"]) == 0


def test_output_must_not_be_the_data(capsys: pytest.CaptureFixture[str]) -> None:
    data = make_data()
    assert main(["convert", "data", "--output", data]) == 2
    assert "found one of the data files" in capsys.readouterr().err
    assert main(["convert", data, "--output", "data"]) == 2
    assert "found a folder, expected a file to write" in capsys.readouterr().err


def test_no_file_is_replaced_unless_asked(capsys: pytest.CaptureFixture[str]) -> None:
    convert = ["convert", make_data(), "--output", "adapter_model.safetensors"]
    Path("adapter_model.safetensors").write_bytes(b"weights")
    assert main(convert) == 2
    assert capsys.readouterr().err == (
        "error: --output 'adapter_model.safetensors': found a file there, expected a new one\n"
        "  fix: name another, or --overwrite\n"
    )
    assert Path("adapter_model.safetensors").read_bytes() == b"weights"
    assert main([*convert, "--overwrite"]) == 0
    assert Path("adapter_model.safetensors").read_text(encoding="utf-8").count("\n") == 5


def test_place_that_cannot_be_written_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    data = make_data()
    Path("file").write_text("")
    assert main(["convert", data, "--output", "file/out.jsonl"]) == 2
    assert "--output 'file/out.jsonl': found 'file': a file where a folder is needed" in capsys.readouterr().err


def test_pixel_boxes_are_rewritten_by_the_size_of_the_image() -> None:
    text = "<ref>it</ref><box>[5, 10, 25, 20]</box>"
    record = {"image": "images/a.png", "conversations": conversation(f"Is it {text}?", text)}
    data = write_data(Path("data/train.json"), [record])
    assert main(["convert", data, "--pixel-boxes", "--output", "out.jsonl"]) == 0
    messages = json.loads(Path("out.jsonl").read_text())["conversations"]
    expected = "<ref>it</ref><box>100 250 500 500</box>"  # of 50 x 40 pixels
    assert messages == conversation(f"Is it {expected}?", expected)


def test_parquet_converts_as_well() -> None:
    pa = pytest.importorskip("pyarrow", reason="needs the extra `data`")
    pq = pytest.importorskip("pyarrow.parquet")
    data = Path("data/b.jpg").read_bytes()
    rows = [{"images": [{"bytes": data, "path": None}], "conversations": SHAREGPT}]
    pq.write_table(pa.Table.from_pylist(rows), "train.parquet")
    assert main(["convert", "train.parquet", "--output", "out.jsonl", "--image-dir", "pictures"]) == 0
    (path,) = Path("pictures").iterdir()
    assert (path.suffix, path.read_bytes()) == (".jpg", data)
    assert content(load_records("out.jsonl")) == content(load_records("train.parquet"))
