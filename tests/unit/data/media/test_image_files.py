from __future__ import annotations

import base64
from pathlib import Path

from PIL import Image

from minicpmv.data.media.image_faults import ImageUse
from minicpmv.data.media.image_files import survey_images
from tests.tiny import picture, save_picture


def use_of(path: str | bytes, *, record: int = 0) -> ImageUse:
    return ImageUse(record=record, where=f"train.json record {record} image", written="", path=path, root=".")


def test_embedded_images_are_judged_like_files(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    picture().save(tmp_path / "a.jpg", exif=exif)
    data = (tmp_path / "a.jpg").read_bytes()
    url = "data:image/jpeg;base64," + base64.b64encode(data).decode()
    report = survey_images([use_of(data), use_of(url), use_of(data[:500]), use_of(url[:500] + "=")])
    assert report.sizes == {data: (50, 40), url: (50, 40)}
    assert [problem.code for _, problem in report.problems] == ["D142", "D142"]
    assert all(len(str(problem)) < 400 for _, problem in report.problems), "no message repeats an image"
    assert {problem.code for _, problem in report.notices} == {"D302"}


def test_a_file_of_many_records_is_named_once_at_the_first(tmp_path: Path) -> None:
    sound, broken = save_picture(tmp_path / "a.png"), str(tmp_path / "b.png")
    Path(broken).write_bytes(b"nothing")
    seen: list[tuple[int, int]] = []
    uses = [use_of(path, record=number) for number, path in enumerate([sound, broken, broken, sound, broken])]
    report = survey_images(uses, on_progress=lambda done, total: seen.append((done, total)))
    ((record, problem),) = report.problems
    assert (record, problem.where) == (1, "train.json record 1 image")
    assert "2 more uses of this file" in problem.found
    assert seen == [(1, 2), (2, 2)]


def test_a_phone_photo_with_its_preview_is_not_called_animated(tmp_path: Path) -> None:
    picture().save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[picture(seed=1)])
    with Image.open(tmp_path / "a.jpg") as image:
        assert (image.format, getattr(image, "n_frames", 1)) == ("MPO", 2)
    report = survey_images([use_of(str(tmp_path / "a.jpg"))])
    assert report.notices == []


def test_a_plain_gif_is_not_called_odd_for_its_palette(tmp_path: Path) -> None:
    picture().save(tmp_path / "a.gif")
    assert survey_images([use_of(str(tmp_path / "a.gif"))]).notices == []
