"""Marks that look like placeholders, weights that cannot be held, and what is context alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from minicpmv.data.sources.loading import load_records
from minicpmv.errors import DataError
from tests.tiny import conversation, save_picture, write_data


@pytest.fixture(autouse=True)
def _in_a_folder_with_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_picture(Path("red.png"), 90, 60)


def codes_of(record: dict[str, Any]) -> list[str]:
    try:
        assert load_records(write_data(Path("train.json"), [record]))[0].turns
    except DataError as error:
        return [problem.code for problem in error.problems]
    return []


MARKS = ["<img>", "<Image>", "< image >", "<image >", "<image/>", "<images>", "<img1>", "<IMG_0>", "[IMAGE]", "[IMG]"]


@pytest.mark.parametrize("mark", [*MARKS, "[image 1]", "<image-2>", "<pic>", "<img_3>"])
@pytest.mark.parametrize("fields", [{}, {"image": "red.png"}])
def test_what_looks_like_a_placeholder_is_named_with_an_image_and_without(mark: str, fields: dict[str, Any]) -> None:
    assert codes_of({"messages": conversation(f"{mark}\nWhat?", "Red."), **fields}) == ["D138"]


def test_a_second_mark_is_named_where_the_first_is_a_placeholder() -> None:
    assert codes_of({"image": "red.png", "messages": conversation("<image>What?", "So.", "[IMAGE] And?", "So.")}) == [
        "D138"
    ]
    assert not codes_of({"image": "red.png", "messages": conversation("<image>Write HTML with <img>.", "So.")})
    assert not codes_of({"messages": conversation("Why?", "Write <img> or <image>.")})


@pytest.mark.parametrize("text", ["<image:red.png> What?", "src=red.png What?"])
def test_a_path_is_found_behind_a_sign(text: str) -> None:
    assert codes_of({"messages": conversation(text, "Red.")}) == ["D161"]


@pytest.mark.parametrize("weight", [1e-300, 1e-46, 1e-7])
def test_a_weight_of_which_nothing_would_be_left_is_refused(weight: float) -> None:
    talk: list[dict[str, Any]] = [*conversation("Why?", "So.")]
    talk[1]["weight"] = weight
    assert codes_of({"messages": talk}) == ["D162"]
    talk[1]["weight"] = 1e-6
    assert not codes_of({"messages": talk})


def test_an_answer_that_is_context_may_be_empty() -> None:
    talk: list[dict[str, Any]] = [*conversation("Why?", "", "And?", "So.")]
    assert codes_of({"messages": talk}) == ["D126"]
    talk[1]["weight"] = 0
    assert not codes_of({"messages": talk})


@pytest.mark.parametrize(("weight", "word"), [("0.5", "0.5"), ("1", "1"), ("True", "true")])
def test_a_weight_in_quotes_is_told_to_leave_them(weight: str, word: str) -> None:
    talk: list[dict[str, Any]] = [*conversation("Why?", "So.")]
    talk[1]["weight"] = weight
    with pytest.raises(DataError, match=f"write {word} without quotes"):
        load_records(write_data(Path("train.json"), [{"messages": talk}]))


def test_a_developer_is_the_system() -> None:
    talk = [{"role": "developer", "content": "Be brief."}, *conversation("Why?", "So.")]
    with pytest.raises(DataError, match="write 'system'"):
        load_records(write_data(Path("train.json"), [{"messages": talk}]))
