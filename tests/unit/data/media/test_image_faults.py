"""Why an image is not there or cannot be read, and what is said to help."""

from __future__ import annotations

import base64
import os
import tempfile
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from minicpmv.data.sources.loading import load_records
from minicpmv.errors import DataError, Problem
from tests.tiny import conversation, save_picture, write_data
from tests.unit.data.test_containers import run

_NOBODY = 65534


def problem_of(image: Any, folder: Path, **options: Any) -> Problem:
    """Return the one problem of a record with this image, in the folder, which is the current one."""
    data = write_data(folder / "train.json", [{"image": image, "conversations": conversation("Why?", "So.")}])
    with pytest.raises(DataError) as caught:
        load_records(Path(data).name, **options)
    (problem,) = caught.value.problems
    return problem


@pytest.fixture(autouse=True)
def _there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("there", "written", "meant"),
    [
        ("Cat.PNG", "cat.png", "Cat.PNG"),
        ("cat.jpeg", "cat.jpg", "cat.jpeg"),
        ("CAT.jpeg", "cat.jpg", "CAT.jpeg"),
        ("COCO_train2014_000000185326.jpg", "000000185326.jpg", "COCO_train2014_000000185326.jpg"),
        ("000000185326.jpg", "COCO_val2014_000000185326.jpg", "000000185326.jpg"),
        ("COCO_val2014_000000185326.png", "000000185326.jpg", "COCO_val2014_000000185326.png"),
        ("picture_of_a_cat.png", "picture_of_a_cta.png", "picture_of_a_cat.png"),
        ("Images/cat.png", "images/cat.png", "Images/cat.png"),
        ("train2017/1.png", "coco/train2017/1.png", "train2017/1.png"),
        ("1.png", "images/train/1.png", "1.png"),
    ],
)
def test_a_near_name_is_proposed_that_exists(tmp_path: Path, there: str, written: str, meant: str) -> None:
    save_picture(tmp_path / there)
    problem = problem_of(written, tmp_path)
    assert problem.code == "D141"
    assert f"did you mean {meant!r}" in problem.fix


@pytest.mark.parametrize("written", ["1.png", "2017.png", "dog.png"])
def test_a_name_that_only_ends_alike_by_chance_is_not_proposed(tmp_path: Path, written: str) -> None:
    save_picture(tmp_path / "train_2017.png")
    assert problem_of(written, tmp_path).fix == "correct the path or add the file"


def test_a_near_folder_without_the_file_is_not_proposed(tmp_path: Path) -> None:
    save_picture(tmp_path / "Images" / "dog.png")
    problem = problem_of("images/cat.png", tmp_path)
    assert problem.fix == "correct the path: there is no folder 'images' (relative paths start at .)"


@pytest.mark.parametrize(("there", "written"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_another_unicode_form_is_named_and_the_command_mends_it(tmp_path: Path, there: str, written: str) -> None:
    name = "café Größe.png"
    save_picture(tmp_path / "my pictures" / unicodedata.normalize(there, name))  # pyright: ignore[reportArgumentType]
    image = f"my pictures/{unicodedata.normalize(written, name)}"  # pyright: ignore[reportArgumentType]
    problem = problem_of(image, tmp_path)
    assert problem.code == "D141"
    assert "in another Unicode form" in problem.fix
    assert run(problem.fix.partition("that folder: ")[2], tmp_path) == ""
    assert len(load_records("train.json")) == 1


def test_a_link_to_nothing_is_named_with_its_target(tmp_path: Path) -> None:
    for target, fix in (
        ("nowhere.png", "put the file there"),
        (".git/annex/objects/X/SHA256E-s1--2.png", "git annex get dangling.png"),
        ("../.dvc/cache/ab/cdef", "dvc pull dangling.png"),
        ("../../blobs/0123", "cp -L"),
        ("dangling.png", "put the file there"),
    ):
        Path("dangling.png").unlink(missing_ok=True)
        Path("dangling.png").symlink_to(target)
        problem = problem_of("dangling.png", tmp_path)
        assert problem.found == f"a link to a file that is not there: 'dangling.png' -> {target!r}"
        assert fix in problem.fix
        assert "did you mean" not in problem.fix
    Path("images").symlink_to("nowhere")
    assert problem_of("images/a.png", tmp_path).found.startswith("a link to a file that is not there: 'images' -> ")


def test_what_is_no_file_is_named_and_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo("pipe.png")
    Path("folder.png").mkdir()
    for path, kind in (("pipe.png", "a named pipe"), ("folder.png", "a folder"), ("/dev/zero", "a device")):
        problem = problem_of(path, tmp_path)
        assert (problem.code, problem.found) == ("D141", f"{kind}: {path!r}")


@contextmanager
def _as_nobody() -> Iterator[None]:
    """Run without the rights of root, who may read everything."""
    if os.geteuid():
        yield
        return
    os.setegid(_NOBODY)
    os.seteuid(_NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


def test_missing_rights_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory() as name:  # the tests' own folder is closed to others
        folder = Path(name)
        folder.chmod(0o755)
        monkeypatch.chdir(folder)
        for image in ("mine.png", "closed/a.png"):
            save_picture(folder / image)
        data = write_data(folder / "other.json", [])
        for path in (folder / "mine.png", Path(data)):
            path.chmod(0)
        (folder / "train.json").touch(mode=0o666)
        (folder / "train.json").chmod(0o666)
        (folder / "closed").chmod(0)
        try:
            with _as_nobody():
                file = problem_of("mine.png", folder)
                inside = problem_of("closed/a.png", folder)
                with pytest.raises(DataError, match=r"D101.*a file that you may not read: 'other.json'"):
                    load_records("other.json")
                with pytest.raises(DataError, match=r"D101.*a folder that you may not enter, 'closed'"):
                    load_records("closed/train.json")
                with pytest.raises(DataError, match=r"D101.*a folder that cannot be read"):
                    load_records("closed")
        finally:
            (folder / "closed").chmod(0o755)
            monkeypatch.undo()
    assert (file.code, file.found) == ("D176", "a file that you may not read: 'mine.png'")
    assert file.fix == "ask its owner for access: chmod a+r mine.png"
    assert (inside.code, inside.found) == (
        "D176",
        "a folder that you may not enter, 'closed', on the way to 'closed/a.png'",
    )
    assert inside.fix == "ask its owner for access: chmod a+x closed"


@pytest.mark.parametrize(
    ("data", "found", "fix"),
    [
        (b"\0\0\0\x18ftypheic" + bytes(100), "a HEIC picture, in 'my a.png'", "pip install pillow-heif"),
        (b"\0\0\0\x18ftypmif1" + bytes(100), "a HEIC picture, in 'my a.png'", "pip install pillow-heif"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of git-lfs", "git lfs pull --include 'my a.png'"),
        (b"/annex/objects/SHA256E-s1--2.png\n", "a pointer of git-annex", "git annex get 'my a.png'"),
        (b"<!doctype html><p>404", "a web page", "download the image itself"),
        (b"<svg xmlns=''/>", "an SVG drawing", "rsvg-convert 'my a.png' -o 'my a'.png"),
        (b"%PDF-1.7\n", "a PDF document", "pdftoppm"),
        (b"\0\0\0\x18ftypisom" + bytes(100), "a video", "name it under 'video' of the record"),
        (b"PK\x03\x04" + bytes(100), "a ZIP archive", "unpack it"),
    ],
)
def test_a_file_of_another_kind_is_named_with_what_helps(tmp_path: Path, data: bytes, found: str, fix: str) -> None:
    (tmp_path / "my a.png").write_bytes(data)
    problem = problem_of("my a.png", tmp_path)
    assert problem.code == "D142"
    assert problem.found.startswith(found)
    assert fix in problem.fix
    inside = "data:image/png;base64," + base64.b64encode(data).decode()
    assert problem_of(inside, tmp_path).found == f"{problem.found.partition(', in ')[0]}, in the embedded image"


def test_bare_base64_is_named_shortly_and_the_fix_loads(tmp_path: Path) -> None:
    save_picture(tmp_path / "a.png", 600, 400)
    text = base64.b64encode((tmp_path / "a.png").read_bytes()).decode()
    problem = problem_of(text, tmp_path)
    assert (problem.code, problem.fix) == ("D175", "put data:image/png;base64, in front of it")
    assert len(str(problem)) < 400
    write_data(
        tmp_path / "train.json", [{"image": f"data:image/png;base64,{text}", "conversations": conversation("a", "b")}]
    )
    assert load_records("train.json")[0].image_sizes == ((600, 400),)
    assert len(str(problem_of("A" * 100_000, tmp_path))) < 600, "base64 of no picture is not repeated either"


@pytest.mark.parametrize("start", ["file://", "file:", "file://localhost"])
def test_a_uri_is_the_path_that_it_means(tmp_path: Path, start: str) -> None:
    path = save_picture(tmp_path / "a b.png", 60, 40)
    uri = start + str(path).replace(" ", "%20")
    write_data(tmp_path / "train.json", [{"image": uri, "conversations": conversation("a", "b")}])
    assert load_records("train.json")[0].image_sizes == ((60, 40),)


@pytest.mark.parametrize("uri", ["file:a.png", "file://a.png"])
def test_a_uri_without_a_whole_path_is_named(tmp_path: Path, uri: str) -> None:
    save_picture(tmp_path / "a.png")
    assert "'a.png'" in problem_of(uri, tmp_path).fix


def test_the_command_for_pictures_of_fractions_makes_one_that_is_seen(tmp_path: Path) -> None:
    Image.fromarray(np.linspace(0, 1, 2000, dtype=np.float32).reshape(40, 50)).save("f.tif")
    problem = problem_of("f.tif", tmp_path)
    assert problem.code == "D177"
    command = problem.fix.partition("8 bits: ")[2].replace("IMAGE", "f.tif")
    assert run(command, tmp_path) == ""
    with Image.open("scaled.png") as image:
        assert (image.mode, image.getextrema()) == ("L", (0, 255))
