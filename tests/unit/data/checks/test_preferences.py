"""Better and worse answers: what can be compared, and which run reads which record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from minicpmv.data.checks.checking import RecordChecker
from minicpmv.data.checks.lint import find_text_oddities
from minicpmv.data.records.formats.styles import to_own_form
from minicpmv.data.records.record import Kind, RawRecord, Record
from minicpmv.data.sources.loading import load_records
from minicpmv.data.sources.survey import Survey
from minicpmv.errors import DataError, Problem
from minicpmv.releases.table import VERSIONS
from tests.tiny import conversation, write_data


def record(**more: Any) -> dict[str, Any]:
    return {"id": "a7", "conversations": conversation("Why?", "So."), **more}


def problems(value: dict[str, Any], *, kind: Kind | None = None, **options: Any) -> list[Problem]:
    raw = to_own_form(RawRecord(source="train.json", index=0, line=1, value=value))
    return list(RecordChecker(kind=kind, **options).check(raw))


def load(folder: Path, value: dict[str, Any]) -> Record:
    path = folder / "train.json"
    path.write_text(json.dumps([value]), encoding="utf-8")
    (found,) = load_records(path)
    return found


@pytest.mark.parametrize(
    "rejected",
    [
        "No.",
        {"role": "assistant", "content": "No."},
        [{"role": "assistant", "content": "No."}],
        {"from": "gpt", "value": "No."},
    ],
    ids=["text", "message", "messages", "sharegpt"],
)
def test_a_worse_answer_is_read_in_every_form(tmp_path: Path, rejected: Any) -> None:
    found = load(tmp_path, record(rejected=rejected))
    assert [(turn.role, turn.text) for turn in found.rejected] == [("assistant", "No.")]
    assert [turn.text for turn in found.turns] == ["Why?", "So."]


def test_a_worse_way_with_tools_is_read(tmp_path: Path) -> None:
    rejected = [
        {"role": "assistant", "content": "", "tool_calls": [{"name": "find", "arguments": {}}]},
        {"role": "tool", "content": "nothing"},
        {"role": "assistant", "content": "No."},
    ]
    found = load(tmp_path, record(rejected=rejected))
    assert [turn.role for turn in found.rejected] == ["assistant", "tool", "assistant"]
    assert found.rejected[0].calls


@pytest.mark.parametrize("label", [True, False])
def test_a_judgement_is_read(tmp_path: Path, label: bool) -> None:
    assert load(tmp_path, record(label=label)).desirable is label


def test_a_record_without_either_has_neither(tmp_path: Path) -> None:
    found = load(tmp_path, record())
    assert (found.rejected, found.desirable) == ((), None)


def test_a_label_that_is_no_judgement_is_not_read() -> None:
    raw = to_own_form(RawRecord(source="train.json", index=0, line=1, value=record(label="cat")))
    assert [unread.key for unread in raw.unread] == ["label"]


@pytest.mark.parametrize(
    ("rejected", "found", "place"),
    [
        ("", "nothing", "rejected[0].content"),
        (" ", "white space only", "rejected[0].content"),
        ([], "no answer", "rejected"),
        (7, "7", "rejected[0]"),
        ("So.", "the same answer twice", "rejected"),
        ({"role": "user", "content": "No."}, "the role 'user'", "rejected[0].role"),
        ([{"role": "assistant", "content": "No."}] * 2, "the role 'assistant'", "rejected[1].role"),
        ({"role": "assistant", "content": "No.", "weight": 0}, "an answer of weight 0", "rejected"),
        ("a\0b", "'a\\x00b'", "rejected[0].content"),
        (
            [
                {"role": "assistant", "content": "", "tool_calls": [{"name": "find", "arguments": {}}]},
                {"role": "tool", "content": "nothing"},
            ],
            "a tool's result at the end",
            "rejected",
        ),
    ],
)
def test_what_cannot_be_compared_is_named(rejected: Any, found: str, place: str) -> None:
    (problem,) = problems(record(rejected=rejected))
    assert (problem.code, problem.found) == ("D180", found)
    assert problem.where.endswith(f" {place}")


def test_a_worse_answer_that_a_release_does_not_write_is_named() -> None:
    thinking = "<think>\nHm.\n</think>\n\nNo."
    found = problems(record(rejected=[*conversation("", thinking)[1:]]), version=VERSIONS["4.5"])
    assert [problem.code for problem in found] == []
    odd = "<think>\nHm.\n</think> No.</think>"
    assert all(problem.code == "D152" for problem in problems(record(rejected=odd), version=VERSIONS["4.5"]))


@pytest.mark.parametrize("kind", ["conversation", "pair", "answer"])
@pytest.mark.parametrize(
    ("more", "held"), [({}, "conversation"), ({"rejected": "No."}, "pair"), ({"label": True}, "answer")]
)
def test_a_record_of_another_kind_than_the_run_reads_is_named(more: dict[str, Any], held: Kind, kind: Kind) -> None:
    found = [problem.code for problem in problems(record(**more), kind=kind)]
    assert found == ([] if held == kind else ["D181"])
    assert problems(record(**more)) == []


def test_message_says_which_run_reads_it() -> None:
    (problem,) = problems(record(rejected="No."), kind="conversation")
    assert str(problem) == (
        "train.json:1 record 0 (id 'a7') rejected: [D181] found a rejected answer, expected neither 'rejected' nor "
        "'label': --objective sft learns every answer\n"
        "  fix: train with --objective dpo, or remove the key to learn the answer"
    )


@pytest.mark.parametrize("kind", [None, "conversation", "pair", "answer"])
def test_a_worse_answer_next_to_a_judgement_is_named_by_every_run_and_check(kind: Kind | None) -> None:
    (problem,) = problems(record(rejected="No.", label=False), kind=kind)
    assert (problem.code, problem.found, problem.expected) == ("D181", "'rejected' and 'label'", "one of them")


@pytest.mark.parametrize(("more", "codes"), [("<|im_end|>", ["D311"]), ("\ufffd", ["D314"]), ("\r", ["D313"])])
def test_oddities_of_a_worse_answer_are_noticed_at_their_place(more: str, codes: list[str]) -> None:
    raw = to_own_form(RawRecord(source="train.json", index=0, line=1, value=record(rejected=f"No.{more}")))
    found = list(find_text_oddities(raw))
    assert [problem.code for problem in found] == codes
    assert found[0].where.endswith(" rejected[0].content")


def test_a_box_is_not_filled_into_a_worse_answer() -> None:
    boxes = {"ref": ["cat"], "bbox": [[1, 2, 3, 4]], "bbox_type": "norm1000"}
    talk = conversation("Where is <ref-object>?", "<bbox>")
    (problem,) = problems({"image": "a.png", "conversations": talk, "objects": boxes, "rejected": "No: <bbox>"})
    assert (problem.code, problem.fix) == (
        "D161",
        "write the box itself: <box>x1 y1 x2 y2</box> on a grid of 0 to 1000",
    )
    assert problem.where.endswith(" rejected[0].content")


@pytest.mark.parametrize(("key", "value"), [("label", "true"), ("label", 1), ("kto_tag", "false"), ("kto_tag", 0)])
def test_a_judgement_that_is_no_boolean_is_named_with_what_is_read(tmp_path: Path, key: str, value: Any) -> None:
    path = write_data(tmp_path / "train.json", [record(**{key: value})])
    with pytest.raises(DataError, match="write true or false, without quotes, under 'label'"):
        load_records(path)


def test_pictures_of_a_worse_answer_are_named(tmp_path: Path) -> None:
    path = write_data(tmp_path / "train.json", [record(rejected="No.", rejected_images=["b.png"])])
    with pytest.raises(DataError, match="here both answers are about the same images"):
        load_records(path)


def test_two_conversations_with_different_questions_are_named(tmp_path: Path) -> None:
    both = {"chosen": conversation("Why?", "So."), "rejected": conversation("How?", "No.")}
    with pytest.raises(DataError, match="'chosen' and 'rejected' without one question that both answer"):
        load_records(write_data(tmp_path / "train.json", [both]))


def test_a_file_of_several_kinds_is_named_once(tmp_path: Path) -> None:
    mixed = write_data(
        tmp_path / "mixed.json", [record(rejected="No."), record(rejected="Yes."), record(), record(label=True)]
    )
    survey = Survey([mixed])
    survey.read_texts()
    (problem,) = [finding.problem for finding in survey.findings if finding.problem.severity == "problem"]
    assert (problem.code, problem.where) == ("D181", mixed)
    assert problem.found == "2 pairs and 1 plain conversation and 1 judged answer"
    assert survey.statistics().kinds == {"conversation": 1, "pair": 2, "answer": 1}


def test_files_may_be_of_one_kind_each(tmp_path: Path) -> None:
    survey = Survey(
        [write_data(tmp_path / f"{number}.json", [more]) for number, more in enumerate((record(), record(label=True)))]
    )
    survey.read_texts()
    assert [finding.problem.code for finding in survey.findings] == []


def test_a_judged_answer_is_sent_to_the_loss_that_reads_it() -> None:
    (problem,) = problems(record(label=True), kind="pair")
    assert problem.fix == "train with --objective dpo --preference_loss apo_zero_unpaired, or remove the key"
