from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from minicpmv.data.records.record import Record
from minicpmv.data.sources.loading import load_records
from minicpmv.data.sources.mixing import DataSource, load_mixture, mix, parse_source
from minicpmv.errors import DataError, UsageError
from tests.tiny import conversation, write_data


def write(file: Path, num_records: int) -> str:
    records = [{"id": f"{file.stem}{i}", "conversations": conversation("Why?", "So.")} for i in range(num_records)]
    return write_data(file, records)


def ids(records: Sequence[Record]) -> list[object]:
    return [record.id for record in records]


@pytest.mark.parametrize(
    ("written", "path", "weight"),
    [
        ("a.jsonl", "a.jsonl", 1),
        ("a.jsonl:2", "a.jsonl", 2),
        ("a.jsonl:0.5", "a.jsonl", 0.5),
        ("a.jsonl:.25", "a.jsonl", 0.25),
        ("a:b.jsonl", "a:b.jsonl", 1),
        ("a:b.jsonl:3", "a:b.jsonl", 3),
        ("C:\\data\\a.json", "C:\\data\\a.json", 1),
        ("odd:2:1", "odd:2", 1),
    ],
)
def test_weight_stands_behind_the_last_colon(written: str, path: str, weight: float) -> None:
    assert parse_source(written, flag="--data_path") == DataSource(path, weight)


def test_what_exists_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("odd:2"), 1)
    assert parse_source("odd:2", flag="--data_path") == DataSource("odd:2")
    assert parse_source("odd:2:2", flag="--data_path") == DataSource("odd:2", 2)
    assert len(load_mixture([DataSource("odd:2")]).records) == 1


@pytest.mark.parametrize("weight", ["0", "-1", "1e999"])
def test_weight_that_cannot_work_is_refused(weight: str) -> None:
    with pytest.raises(UsageError, match=r"--data_path: found the weight .* expected a positive number"):
        parse_source(f"a.jsonl:{weight}", flag="--data_path")


def test_evaluation_has_no_weights() -> None:
    with pytest.raises(UsageError, match=r"(?s)--eval_data_path: found the weight 2 .* fix: write a.jsonl"):
        parse_source("a.jsonl:2", flag="--eval_data_path", weights_allowed=False)


def test_whole_weights_repeat_every_record(tmp_path: Path) -> None:
    sources = [DataSource(write(tmp_path / "a.json", 2), 2), DataSource(write(tmp_path / "b.json", 1))]
    assert ids(load_mixture(sources).records) == ["a0", "a1", "a0", "a1", "b0"]


def test_half_is_a_half_chosen_by_the_seed(tmp_path: Path) -> None:
    sources = [DataSource(write(tmp_path / "a.json", 20), 0.5)]
    first = ids(load_mixture(sources, seed=1).records)
    assert len(set(first)) == 10
    assert ids(load_mixture(sources, seed=1).records) == first
    assert ids(load_mixture(sources, seed=2).records) != first


def test_one_and_a_half_sees_all_and_half_of_them_again(tmp_path: Path) -> None:
    seen = ids(load_mixture([DataSource(write(tmp_path / "a.json", 4), 1.5)]).records)
    assert seen[:4] == ["a0", "a1", "a2", "a3"]
    assert len(seen[4:]) == len(set(seen[4:])) == 2


def test_choice_does_not_depend_on_the_other_sources(tmp_path: Path) -> None:
    half = DataSource(write(tmp_path / "a.json", 20), 0.5)
    other = DataSource(write(tmp_path / "b.json", 3), 2)
    assert ids(load_mixture([other, half], seed=1).records)[6:] == ids(load_mixture([half], seed=1).records)


def test_weight_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="which leaves none of them"):
        mix([(DataSource("a.json", 0.1), [Record(source="a.json", index=0, turns=())])], seed=0)


def test_problems_of_all_sources_are_reported(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[5]")
    with pytest.raises(DataError) as caught:
        load_mixture([DataSource(str(tmp_path / "a.json")), DataSource(str(tmp_path / "b.json"))])
    assert [problem.code for problem in caught.value.problems] == ["D110", "D101"]


def test_folder_is_all_its_data_files_in_order(tmp_path: Path) -> None:
    write(tmp_path / "b.json", 2)
    (tmp_path / "a.jsonl").write_text('{"id": "x", "messages": [{"role": "user", "content": "Why?"}, '
                                      '{"role": "assistant", "content": "So."}]}')  # fmt: skip
    (tmp_path / "notes.txt").write_text("not data")
    (tmp_path / ".hidden.json").write_text("not data")
    records = load_records(tmp_path)
    assert ids(records) == ["x", "b0", "b1"]
    assert [(Path(record.source).name, record.index) for record in records] == [
        ("a.jsonl", 0),
        ("b.json", 0),
        ("b.json", 1),
    ]
    (tmp_path / "c.json").write_text("[5]")
    with pytest.raises(DataError, match=r"c\.json:1 record 0: \[D110\]"):
        load_records(tmp_path)


def test_image_problems_of_a_folder_name_the_record_of_their_own_file(tmp_path: Path) -> None:
    good = {"conversations": conversation("Why?", "So.")}
    bad = {"image": "nope.png", "conversations": conversation("Why?", "")}
    write_data(tmp_path / "b.json", [good, good])
    write_data(tmp_path / "a.json", [bad, good, bad | {"image": "gone.png"}])
    with pytest.raises(DataError) as caught:
        load_records(tmp_path)
    found = [problem.where.removeprefix(str(tmp_path)) for problem in caught.value.problems]
    assert found == [
        "/a.json:2 record 0 conversations[1].content",
        "/a.json:2 record 0 image",
        "/a.json:4 record 2 conversations[1].content",
        "/a.json:4 record 2 image",
    ]
    write_data(tmp_path / "a.json", [good, good, good])
    write_data(tmp_path / "b.json", [good, bad])
    with pytest.raises(DataError) as caught:
        load_records(tmp_path)
    assert len({problem.where.rpartition(" ")[0] for problem in caught.value.problems}) == 1
