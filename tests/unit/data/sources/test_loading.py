from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from minicpmv.data.sources.loading import load_records
from minicpmv.errors import DataError, Problem, UsageError
from minicpmv.processing.text.turns import ImageRef
from tests.tiny import conversation, picture, save_picture, write_data


def load(folder: Path, *records: dict[str, Any]) -> Any:
    return load_records(write_data(folder / "train.json", list(records)))


def problem_of(folder: Path, *records: dict[str, Any]) -> Problem:
    with pytest.raises(DataError) as caught:
        load(folder, *records)
    (problem,) = caught.value.problems
    return problem


def content_of(folder: Path, text: str, image: Any) -> tuple[str | ImageRef, ...]:
    (record,) = load(folder, {"image": image, "conversations": conversation(text, "So.")})
    return record.turns[0].content


def test_paths_start_at_the_data_file(tmp_path: Path) -> None:
    path = save_picture(tmp_path / "images" / "a.png")
    (record,) = load(tmp_path, {"id": 7, "image": "images/a.png", "conversations": conversation("Why?", "So.")})
    assert (record.id, record.index, record.line) == (7, 0, 2)
    assert (record.images, record.image_sizes) == ((path,), ((50, 40),))
    assert record.where("image") == f"{tmp_path / 'train.json'}:2 record 0 (id 7) image"


def test_paths_start_at_the_image_root(tmp_path: Path) -> None:
    path = save_picture(tmp_path / "images" / "a.png")
    file = write_data(tmp_path / "train.json", [{"image": "a.png", "conversations": conversation("Why?", "So.")}])
    (record,) = load_records(file, image_root=tmp_path / "images")
    assert record.images == (path,)
    with pytest.raises(UsageError, match="image root: found no folder"):
        load_records(file, image_root=tmp_path / "nowhere")


def test_absolute_paths_stay(tmp_path: Path) -> None:
    path = save_picture(tmp_path / "elsewhere" / "a.png")
    (record,) = load(tmp_path, {"image": path, "conversations": conversation("Why?", "So.")})
    assert record.images == (path,)


def test_both_spellings_mean_the_same(tmp_path: Path) -> None:
    save_picture(tmp_path / "a.png")
    expected = (ImageRef(0), "Why?")
    assert content_of(tmp_path, "<image>\nWhy?", "a.png") == expected
    assert content_of(tmp_path, "<ImageHere>\nWhy?", "a.png") == expected
    assert content_of(tmp_path, "Why?", "a.png") == expected
    assert content_of(tmp_path, "<image>\nWhy?", ["a.png"]) == expected
    assert content_of(tmp_path, "<image>\nWhy?", {"<image>": "a.png"}) == expected
    assert content_of(tmp_path, "<image_00>\nWhy?", {"<image_00>": "a.png"}) == expected


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("<image>Why?", (ImageRef(0), "Why?")),
        ("<image>\n\nWhy?", (ImageRef(0), "\nWhy?")),
        ("  <image>\n  Why? \n", ("  ", ImageRef(0), "  Why? \n")),
        ("Look:\n<image>", ("Look:", ImageRef(0))),
        ("\n<image>\n", ("", ImageRef(0), "")),
        ("<image>", (ImageRef(0),)),
        ("Is <image> red?", ("Is ", ImageRef(0), " red?")),
    ],
)
def test_one_newline_belongs_to_the_placeholder(tmp_path: Path, text: str, content: tuple[object, ...]) -> None:
    save_picture(tmp_path / "a.png")
    assert content_of(tmp_path, text, "a.png") == content


@pytest.mark.parametrize(
    ("between", "middle"),
    [("", ()), ("\n", ()), ("\n\n", ("",)), (" ", (" ",)), ("\nand\n", ("and",)), ("\n\n\n", ("\n",))],
)
def test_newlines_between_two_images(tmp_path: Path, between: str, middle: tuple[str, ...]) -> None:
    save_picture(tmp_path / "a.png")
    content = content_of(tmp_path, f"<image>{between}<image>\nWhy?", ["a.png", "a.png"])
    assert content == (ImageRef(0), *middle, ImageRef(1), "Why?")


def test_images_without_placeholders_go_first(tmp_path: Path) -> None:
    paths = [save_picture(tmp_path / name) for name in ("b.png", "a.png")]
    messages = [{"role": "system", "content": "Be brief."}, *conversation("Why?", "So.", "And?", "Yes.")]
    (record,) = load(tmp_path, {"image": ["b.png", "a.png"], "conversations": messages})
    assert record.images == tuple(paths)
    assert [turn.content for turn in record.turns] == [
        ("Be brief.",),
        (ImageRef(0), ImageRef(1), "Why?"),
        ("So.",),
        ("And?",),
        ("Yes.",),
    ]


def test_keyed_images_come_in_the_order_of_the_text(tmp_path: Path) -> None:
    a, b = save_picture(tmp_path / "a.png", 50, 40), save_picture(tmp_path / "b.png", 30, 20)
    image = {"<image_00>": "a.png", "<image_01>": "b.png"}
    (record,) = load(
        tmp_path,
        {"image": image, "conversations": conversation("First <image_01>.", "So.", "<image_00>\nthen", "<image_00>")},
    )
    assert (record.images, record.image_sizes) == ((b, a), ((30, 20), (50, 40)))
    assert record.turns[0].content == ("First ", ImageRef(0), ".")
    assert record.turns[2].content == (ImageRef(1), "then")
    assert record.turns[3].content == ("<image_00>",)


def test_text_and_images_in_one_file(tmp_path: Path) -> None:
    save_picture(tmp_path / "a.png")
    records = load(
        tmp_path,
        {"image": "a.png", "conversations": conversation("<image>\nWhy?", "So.")},
        {"conversations": conversation("Why?", "So.")},
        {"image": {}, "conversations": conversation("Why?", "So.")},
    )
    assert [len(record.images) for record in records] == [1, 0, 0]
    assert records[1].image_sizes == ()


def test_d141_missing_image_suggests_the_near_name(tmp_path: Path) -> None:
    save_picture(tmp_path / "Cat_1.PNG")
    messages = conversation("<image>\nWhy?", "So.")
    for written in ("cat_1.png", "Cat_1.jpg", "Cat_2.PNG"):
        problem = problem_of(tmp_path, {"id": "a7", "image": written, "conversations": messages})
        assert problem.code == "D141"
        assert problem.where == f"{tmp_path / 'train.json'}:2 record 0 (id 'a7') image"
        assert problem.fix == "did you mean 'Cat_1.PNG', which is in that folder?"


def test_d141_missing_image_without_a_near_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    messages = conversation("<image>\nWhy?", "So.")
    problem = problem_of(tmp_path, {"image": "b.png", "conversations": messages})
    assert problem.fix == "correct the path or add the file"
    assert problem_of(tmp_path, {"image": "x/b.png", "conversations": messages}).fix.startswith(
        "correct the path: there is no folder"
    )
    assert (
        problem_of(tmp_path, {"image": "x\\b.png", "conversations": messages}).fix == "write / instead of \\ in paths"
    )
    (tmp_path / "folder").mkdir()
    assert problem_of(tmp_path, {"image": "folder", "conversations": messages}).found.startswith("a folder: ")
    save_picture(tmp_path / "run" / "pictures" / "b.png")
    monkeypatch.chdir(tmp_path / "run")
    problem = problem_of(tmp_path, {"image": "pictures/b.png", "conversations": messages})
    assert problem.fix.endswith("the file exists from the current folder, so set the image root to it")


def test_d141_one_problem_per_file(tmp_path: Path) -> None:
    record = {"image": ["b.png", "b.png"], "conversations": conversation("Why?", "So.")}
    problem = problem_of(tmp_path, record, record)
    assert problem.where.endswith("record 0 image[0]")
    assert problem.found.endswith("; 3 more uses of this file")


@pytest.mark.parametrize("extension", ["png", "jpg", "webp", "bmp", "gif", "tiff"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.97])
def test_d142_cut_off_image(tmp_path: Path, extension: str, share: float) -> None:
    path = Path(save_picture(tmp_path / f"a.{extension}", 120, 90))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    problem = problem_of(tmp_path, {"image": path.name, "conversations": conversation("Why?", "So.")})
    assert problem.code == "D142"
    assert problem.found.startswith("data that cannot be decoded")
    assert repr(str(path)) in problem.found or "..." in problem.found


def test_d142_no_image(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("hello")
    assert problem_of(tmp_path, {"image": "a.png", "conversations": conversation("Why?", "So.")}).code == "D142"


def test_d142_damaged_in_the_middle(tmp_path: Path) -> None:
    path = Path(save_picture(tmp_path / "a.png", 120, 90))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    assert problem_of(tmp_path, {"image": "a.png", "conversations": conversation("Why?", "So.")}).code == "D142"


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "I;16"])
def test_other_colour_modes_are_fine(tmp_path: Path, mode: str) -> None:
    image = picture().convert("L").convert("I;16") if mode == "I;16" else picture().convert(mode)
    image.save(tmp_path / "a.tiff")
    (record,) = load(tmp_path, {"image": "a.tiff", "conversations": conversation("Why?", "So.")})
    assert record.image_sizes == ((50, 40),)


def test_jpeg_with_bytes_behind_its_end_is_fine(tmp_path: Path) -> None:
    path = Path(save_picture(tmp_path / "a.jpg"))
    for tail in (b"\0" * 20, b"more"):
        path.write_bytes(path.read_bytes() + tail)
        assert len(load(tmp_path, {"image": "a.jpg", "conversations": conversation("Why?", "So.")})) == 1


def test_text_and_image_problems_stand_together_in_file_order(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load(
            tmp_path,
            {"id": 1, "image": "b.png", "conversations": conversation("<image>", " ")},
            {"id": 2, "conversations": conversation("<image>", "So.")},
            {"id": 3, "image": "c.png", "conversations": conversation("<image>", "So.")},
        )
    assert [problem.code for problem in caught.value.problems] == ["D126", "D141", "D133", "D141"]


def test_reading_and_checking_need_no_torch() -> None:
    code = "import sys, minicpmv.data.sources.loading; sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    "text", ['[{"id": %s}]', "[{id: %s,}]", '{"id": %s}\n{"id": 2}\n'], ids=["json", "json5", "lines"]
)
def test_a_number_of_thousands_of_digits_is_a_wrong_id_not_a_crash(text: str, tmp_path: Path) -> None:
    """Python refuses to convert them, because it would take long."""
    file = tmp_path / "train.json"
    file.write_text(text % ("7" * 5000))
    with pytest.raises(DataError) as caught:
        load_records(file)
    assert "D113" in {problem.code for problem in caught.value.problems}


def test_references_are_kept_as_written_and_are_no_turns(tmp_path: Path) -> None:
    talk = conversation("Why?", "So.")
    records = [{"conversations": talk, "references": ["So.", "thus"]}, {"conversations": talk, "references": None}]
    first, second = load_records(write_data(tmp_path / "heldout.json", records))
    assert (first.references, second.references) == (("So.", "thus"), ())
    assert first.turns == second.turns
