"""Two answers next to each other: what only one of them says, and what a page makes of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from minicpmv.data.samples.dataset import ConversationDataset
from minicpmv.data.sources.loading import load_records
from minicpmv.pages.word_differences import Stretch
from minicpmv.processing.processor import MiniCPMVProcessor
from minicpmv.show.answers import compare_answers
from minicpmv.show.page import Header, render_page
from tests.tiny import FIXTURES, conversation, write_data
from tests.unit.show.pages import read_page


def dataset_of(folder: Path, **fields: Any) -> ConversationDataset:
    answer = fields.pop("answer", "A red cat sits.")
    data = write_data(folder / "pairs.json", [{"conversations": conversation("What?", answer), **fields}])
    return ConversationDataset(
        load_records(data), MiniCPMVProcessor.from_pretrained(FIXTURES / "v2_6"), max_length=2048
    )


def page_of(dataset: ConversationDataset) -> str:
    return render_page(dataset, Header(data="pairs.json", model="model", num_records=1, choice=""))


def changed(stretches: tuple[Stretch, ...]) -> list[str]:
    return [stretch.text for stretch in stretches if stretch.is_changed]


@pytest.mark.parametrize(
    ("better", "worse", "only_better", "only_worse"),
    [
        ("A red cat sits.", "A dog sits there.", ["red cat"], ["dog", " there"]),
        ("一只红猫", "一只蓝猫", ["红"], ["蓝"]),
        ("So\n\nit is", "So it is", ["\n\n"], [" "]),
        ("Yes.", "No!", ["Yes."], ["No!"]),
    ],
)
def test_what_one_answer_says_alone_is_marked(
    tmp_path: Path, better: str, worse: str, only_better: list[str], only_worse: list[str]
) -> None:
    answers = compare_answers(dataset_of(tmp_path, answer=better, rejected=worse).records[0])
    assert answers is not None
    assert (changed(answers.better), changed(answers.worse)) == (only_better, only_worse)
    assert "".join(part.text for part in answers.better) == better
    assert "".join(part.text for part in answers.worse) == worse


def test_a_page_marks_differences_by_elements_and_not_by_colour_alone(tmp_path: Path) -> None:
    page = page_of(dataset_of(tmp_path, rejected="A <b>dog</b> sits."))
    assert re.findall("<ins>(.*?)</ins>", page) == ["red cat"]
    assert re.findall("<del>(.*?)</del>", page) == ["&lt;b&gt;dog&lt;/b&gt;"]
    read_back = read_page(page)
    assert "text-decoration-line: underline" in read_back.style
    assert "text-decoration-line: line-through" in read_back.style
    assert "A <b>dog</b> sits." in read_back.text


@pytest.mark.parametrize(("label", "word"), [(True, "good"), (False, "bad")])
def test_a_page_says_how_an_answer_is_judged(tmp_path: Path, label: bool, word: str) -> None:
    assert f"Judged {word}." in read_page(page_of(dataset_of(tmp_path, label=label))).text


def test_a_page_of_a_conversation_says_nothing_of_worse_answers(tmp_path: Path) -> None:
    page = page_of(dataset_of(tmp_path))
    assert "Judged" not in page
    assert "worse" not in page
    assert "<ins>" not in page
