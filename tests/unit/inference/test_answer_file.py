"""What is on disk, whatever happened: the undisturbed run's file in the end, and no answer of another run in it."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minicpmv.data.records.answers import Answers
from minicpmv.data.records.record import Record
from minicpmv.errors import UsageError
from minicpmv.inference.answer_file import PartialAnswers, check_output, check_place
from minicpmv.inference.predicting import Prediction
from minicpmv.processing.text.turns import ImageRef, Turn
from tests.tiny import save_picture

RUN: dict[str, Any] = {"model": "a", "images": "2 files", "seed": 1}
BATCHES = [np.array([3, 1]), np.array([0]), np.array([4, 2])]


def make_records(folder: Path) -> list[Record]:
    images = [save_picture(folder / f"{number}.png", seed=number) for number in range(5)]
    turns = (Turn("user", (ImageRef(0), "What is it? 猫")),)
    return [
        Record(source="data.json", index=index, id=f"r{index}", images=(image,), turns=turns)
        for index, image in enumerate(images)
    ]


def predictions(batch: Sequence[int], *, told: str = "") -> list[Prediction]:
    return [
        Prediction(
            index=index,
            id=f"r{index}",
            question="?",
            answer=f"猫\n{index}{told}",
            reference="猫" if index % 2 else None,
            references=("猫", "ねこ") if index == 3 else (),
        )
        for index in batch
    ]


def go_on(output: Path, records: Sequence[Record], *, told: str = "", stop_at: int | None = None) -> int:
    """Answer what is not answered yet; return how many batches were there before."""
    with PartialAnswers(output, RUN, asked=Answers(records), batches=BATCHES) as answers:
        before = answers.num_done
        for batch in BATCHES[before:stop_at]:
            answers.add(predictions(batch.tolist(), told=told))
        if stop_at is None:
            answers.finish()
    return before


@pytest.fixture
def records(tmp_path: Path) -> list[Record]:
    return make_records(tmp_path / "images")


def test_the_file_has_one_line_for_each_record_in_their_order(tmp_path: Path, records: list[Record]) -> None:
    output = tmp_path / "out.jsonl"
    go_on(output, records)
    lines = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert [line["index"] for line in lines] == [0, 1, 2, 3, 4]
    assert lines[1] == {"index": 1, "id": "r1", "question": "?", "answer": "猫\n1", "reference": "猫"}
    assert lines[3]["references"] == ["猫", "ねこ"]
    assert "reference" not in lines[2]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "out.jsonl", "out.jsonl.run.json"]
    assert check_output(output, RUN, overwrite=False), "the same run has nothing left to do"


@pytest.mark.parametrize("found", ["a link", "a FIFO"])
def test_partial_file_that_is_no_file_is_named(found: str, tmp_path: Path, records: list[Record]) -> None:
    output, partial, foreign = (tmp_path / name for name in ("out.jsonl", "out.jsonl.partial", "foreign"))
    foreign.write_text("kept", encoding="utf-8")
    partial.symlink_to(foreign) if found == "a link" else os.mkfifo(partial)
    for attempt in (lambda: check_output(output, RUN, overwrite=False), lambda: go_on(output, records)):
        with pytest.raises(UsageError, match=rf"(?s)\.partial': found {found}.*, expected nothing, or a file .*fix: "):
            attempt()
    assert foreign.read_text(encoding="utf-8") == "kept"


def test_cut_off_at_any_byte_it_becomes_the_same_file(tmp_path: Path, records: list[Record]) -> None:
    whole, output, partial = (tmp_path / name for name in ("whole.jsonl", "out.jsonl", "out.jsonl.partial"))
    go_on(whole, records)
    go_on(output, records, stop_at=3)
    content = partial.read_bytes()
    resumed: list[int] = []
    for length in range(len(content) + 1):
        partial.write_bytes(content[:length])
        assert not check_output(output, RUN, overwrite=False)
        resumed.append(go_on(output, records))
        assert output.read_bytes() == whole.read_bytes()
        output.unlink()
    assert resumed == sorted(resumed)
    assert set(resumed) == {0, 1, 2, 3}, "whole batches are kept"
    assert resumed[-2:] == [2, 3], "a batch without its last byte is not whole"


def test_what_follows_half_a_line_is_found_by_the_next_process(tmp_path: Path, records: list[Record]) -> None:
    output = tmp_path / "out.jsonl"
    go_on(output, records, stop_at=1)
    with (tmp_path / "out.jsonl.partial").open("ab") as file:
        file.write(b'0123456789abcdef {"index": 0, "ans')
    assert go_on(output, records, stop_at=2) == 1
    assert go_on(output, records) == 2


def test_batches_are_asked_again_from_the_first_whose_image_has_changed(tmp_path: Path, records: list[Record]) -> None:
    output = tmp_path / "out.jsonl"
    go_on(output, records, stop_at=2)
    os.utime(str(records[4].images[0]), (1, 1))  # nobody has asked yet
    assert go_on(output, records, stop_at=2) == 2
    os.utime(str(records[0].images[0]), (1, 1))
    assert go_on(output, records, told=" anew") == 1
    lines = [json.loads(line)["answer"] for line in output.read_text(encoding="utf-8").splitlines()]
    assert lines == ["猫\n0 anew", "猫\n1", "猫\n2 anew", "猫\n3", "猫\n4 anew"]


def test_another_run_is_refused_with_what_is_different(tmp_path: Path, records: list[Record]) -> None:
    output = tmp_path / "out.jsonl"
    go_on(output, records, stop_at=1)
    with pytest.raises(
        UsageError, match=r"out.jsonl.partial: found answers of another run: seed 1 and now 2; expected"
    ):
        check_output(output, RUN | {"seed": 2}, overwrite=False)
    assert not check_output(output, RUN | {"images": "3 files"}, overwrite=False), "images count batch by batch"
    assert not check_output(output, RUN | {"seed": 2}, overwrite=True)
    with PartialAnswers(output, RUN | {"seed": 2}, asked=Answers(records), batches=BATCHES) as answers:
        assert answers.num_done == 0


def test_a_finished_file_of_another_run_is_refused(tmp_path: Path, records: list[Record]) -> None:
    output = tmp_path / "out.jsonl"
    go_on(output, records)
    with pytest.raises(UsageError, match="found a file of another run: images 2 files and now 3 files, expected none"):
        check_output(output, RUN | {"images": "3 files"}, overwrite=False)
    assert not check_output(output, RUN, overwrite=True)
    output.write_bytes(output.read_bytes() + b"\n")
    with pytest.raises(UsageError, match="found a file that was changed after it was written"):
        check_output(output, RUN, overwrite=False)


@pytest.mark.parametrize(("name", "found"), [("a/b.jsonl", "found no folder"), (".", "found a folder")])
def test_what_cannot_be_the_output_is_said_at_once(tmp_path: Path, name: str, found: str) -> None:
    with pytest.raises(UsageError, match=found):
        check_place(tmp_path / name)


def test_a_file_of_unknown_origin_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="a file without a record of the run"):
        check_output(tmp_path / "mine.txt", RUN, overwrite=False)
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_a_run_that_has_answered_nothing_is_in_nobody_s_way(tmp_path: Path, records: list[Record]) -> None:
    output = tmp_path / "out.jsonl"
    go_on(output, records, stop_at=0)
    assert not check_output(output, RUN | {"batch_size": 1}, overwrite=False)


def test_a_partial_file_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out.jsonl.partial").write_text('{"index": 0}\n{"index": 1}\n')
    with pytest.raises(UsageError, match="found no line that identifies its run"):
        check_output(tmp_path / "out.jsonl", RUN, overwrite=False)


def test_killed_before_the_last_rename_it_goes_on_and_after_it_is_done(
    tmp_path: Path, records: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    output, partial = tmp_path / "out.jsonl", tmp_path / "out.jsonl.partial"

    def dying_at(path: Path, do: Any) -> Any:
        def done_or_killed(*arguments: Any, **options: Any) -> None:
            if arguments[-1] == path:
                raise KeyboardInterrupt
            do(*arguments, **options)

        return done_or_killed

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", dying_at(partial, Path.unlink))
        with pytest.raises(KeyboardInterrupt):
            go_on(output, records)
    assert partial.exists()
    assert check_output(output, RUN, overwrite=False)
    assert not partial.exists()
    content = output.read_bytes()
    output.unlink()
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", dying_at(output, os.replace))
        with pytest.raises(KeyboardInterrupt):
            go_on(output, records)
    assert not output.exists()
    assert not check_output(output, RUN, overwrite=False)
    assert go_on(output, records) == len(BATCHES)
    assert output.read_bytes() == content


def test_two_processes_do_not_write_one_file(tmp_path: Path, records: list[Record]) -> None:
    output = tmp_path / "out.jsonl"
    with (
        PartialAnswers(output, RUN, asked=Answers(records), batches=BATCHES),
        pytest.raises(UsageError, match="found another process writing it"),
        PartialAnswers(output, RUN, asked=Answers(records), batches=BATCHES),
    ):
        pass


def test_a_full_disk_loses_nothing(tmp_path: Path, records: list[Record]) -> None:
    whole, output = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    go_on(whole, records)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for size in range(0, 800, 7):  # of bytes, of every file: within the first line, within a batch, within the result
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
            go_on(output, records)
        except UsageError as error:
            assert "found that the answers cannot be written (File too large)" in str(error)  # noqa: PT017
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        if output.exists():
            break
        assert not (tmp_path / ".out.jsonl.tmp").exists()
    assert output.read_bytes() == whole.read_bytes()
    assert size > 300


def test_text_that_utf_8_cannot_write_is_read_back(tmp_path: Path, records: list[Record]) -> None:
    said = Prediction(index=0, id="\ud83d", question="?", answer="half", reference=None)
    with PartialAnswers(tmp_path / "o", RUN, asked=Answers(records[:1]), batches=[np.array([0])]) as answers:
        answers.add([said])
        answers.finish()
    assert json.loads((tmp_path / "o").read_bytes())["id"] == "\ud83d"
