"""What a second start need not look at again, and everything that makes it look."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from minicpmv.data.checks.checking import RecordChecker
from minicpmv.data.records.record import RawRecord
from minicpmv.data.samples import dataset as dataset_module
from minicpmv.data.sources.cache import describe_software
from minicpmv.errors import Problem
from minicpmv.training.flags.arguments import parse_arguments
from minicpmv.training.inputs.base_checkpoint import open_base
from minicpmv.training.inputs.run_inputs import RunInputs, open_inputs
from tests.tiny import FIXTURES, conversation, save_picture, write_data

Change = Callable[[Path], "list[str] | None"]


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Count the records that are judged, and those whose tokens are counted."""
    counts: Counter[str] = Counter()
    check, fit = RecordChecker.check, dataset_module.fit_record

    def counted_check(self: RecordChecker, record: RawRecord, root: str | None = None) -> Iterator[Problem]:
        counts["judged"] += 1
        return check(self, record, root)

    def counted_fit(*arguments: Any) -> Any:
        counts["counted"] += 1
        return fit(*arguments)

    monkeypatch.setattr(RecordChecker, "check", counted_check)
    monkeypatch.setattr(dataset_module, "fit_record", counted_fit)
    yield counts
    describe_software.cache_clear()


def prepare(folder: Path) -> None:
    base = folder / "base"
    base.mkdir()
    for file in (FIXTURES / "v2_6").iterdir():
        if file.suffix in (".json", ".txt") and file.name not in ("cases.json", "inference.json"):
            shutil.copy(file, base)
    (folder / "data").mkdir()
    records = [{"id": str(i), "conversations": conversation("Why?", "So. " * (i + 1))} for i in range(3)]
    save_picture(folder / "data" / "a.png", 150, 80)
    records.append({"id": "p", "image": "a.png", "conversations": conversation("<image>\nWhat?", "That.")})
    write_data(folder / "data" / "train.json", records)


def gather(folder: Path, *extra: str, seed: int = 42) -> RunInputs:
    words = ["--model_name_or_path", str(folder / "base"), "--data_path", str(folder / "data" / "train.json")]
    words += ["--output_dir", str(folder / "output"), "--data_cache", str(folder / "kept")]
    run = parse_arguments([*words, *extra]).run
    return open_inputs(run, open_base(run), str(folder / "output"), seed=seed)


def costs(inputs: RunInputs) -> list[list[int]]:
    assert inputs.lengths is not None
    lengths = inputs.lengths
    return [lengths.lengths.tolist(), lengths.num_trained.tolist(), lengths.num_image_tokens.tolist()]


def test_a_second_start_judges_and_counts_nothing(
    tmp_path: Path, looks: Counter[str], capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(tmp_path)
    first = gather(tmp_path)
    assert looks == {"judged": 4, "counted": 4}
    assert "as checked before" not in capsys.readouterr().out
    looks.clear()
    second = gather(tmp_path)
    assert looks == {}
    expected = "data: 4 records as checked before (--data_cache false checks again)\n"
    assert capsys.readouterr().out == expected
    assert costs(second) == costs(first)
    assert list(second.train.records) == list(first.train.records)
    assert second.contents == first.contents
    for index in range(4):
        assert all(value.equal(second.train[index][name]) for name, value in first.train[index].items())


def test_nothing_is_kept_where_the_user_says_so(tmp_path: Path, looks: Counter[str]) -> None:
    prepare(tmp_path)
    for _ in range(2):
        gather(tmp_path, "--data_cache", "false")
    assert looks == {"judged": 8, "counted": 8}
    assert not (tmp_path / "kept").exists()


def rewrite(folder: Path) -> None:
    path = folder / "data" / "train.json"
    path.write_text(path.read_text().replace("So. ", "No. "))  # as many bytes as before


def set_in(file: str, name: str, value: Any) -> Change:
    def change(folder: Path) -> None:
        path = folder / "base" / file
        path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))

    return change


def touch(folder: Path) -> None:
    os.utime(folder / "data" / "a.png", ns=(1, 1))


def replace_picture(folder: Path) -> None:
    save_picture(folder / "data" / "a.png", 56, 56)


def move(folder: Path) -> list[str]:
    shutil.copytree(folder / "data", folder / "elsewhere")
    return ["--data_path", str(folder / "elsewhere" / "train.json")]


def move_pictures(folder: Path) -> list[str]:
    shutil.copytree(folder / "data", folder / "elsewhere")
    return ["--image_root", str(folder / "elsewhere")]


@pytest.mark.long
@pytest.mark.parametrize(
    ("change", "judged", "counted"),
    [
        pytest.param(rewrite, 4, 4, id="data file"),
        pytest.param(replace_picture, 4, 4, id="picture"),
        pytest.param(touch, 4, 0, id="time of a picture"),
        pytest.param(move, 4, 0, id="folder"),
        pytest.param(move_pictures, 4, 0, id="image root"),
        pytest.param(lambda folder: ["--image_root", str(folder / "data")], 0, 0, id="the same image root"),
        pytest.param(lambda _: ["--model_max_length", "1000"], 0, 4, id="--model_max_length"),
        pytest.param(lambda _: ["--max_slice_nums", "2"], 0, 4, id="--max_slice_nums"),
        pytest.param(lambda _: ["--on_long_record", "skip"], 0, 4, id="--on_long_record"),
        pytest.param(lambda _: ["--truncate_answers", "true"], 0, 4, id="--truncate_answers"),
        pytest.param(set_in("tokenizer_config.json", "note", 1), 0, 4, id="tokenizer"),
        pytest.param(set_in("preprocessor_config.json", "note", 1), 0, 4, id="image processor"),
        pytest.param(set_in("config.json", "note", 1), 0, 4, id="config"),
    ],
)
def test_what_is_other_than_before_is_looked_at(
    tmp_path: Path, looks: Counter[str], change: Change, judged: int, counted: int
) -> None:
    prepare(tmp_path)
    gather(tmp_path)
    extra = change(tmp_path) or []
    looks.clear()
    found = costs(gather(tmp_path, *extra))
    assert looks == Counter({name: number for name, number in (("judged", judged), ("counted", counted)) if number})
    assert found == costs(gather(tmp_path, *extra, "--data_cache", "false"))
    looks.clear()
    gather(tmp_path, *extra)
    assert looks == {}


@pytest.mark.parametrize(
    ("weight", "seed", "counted"), [(":1", 42, 0), (":2", 42, 8), (":0.5", 42, 2), (":0.5", 43, 2)]
)
def test_weights_are_counted_by_themselves(
    tmp_path: Path, looks: Counter[str], weight: str, seed: int, counted: int
) -> None:
    prepare(tmp_path)
    data = str(tmp_path / "data" / "train.json")
    gather(tmp_path)
    if seed != 42:
        gather(tmp_path, "--data_path", data + weight)
    looks.clear()
    found = gather(tmp_path, "--data_path", data + weight, seed=seed)
    assert looks == (Counter(counted=counted) if counted else Counter())
    assert costs(found) == costs(gather(tmp_path, "--data_path", data + weight, "--data_cache", "false", seed=seed))


def test_weights_that_leave_as_many_records_are_told_apart(tmp_path: Path, looks: Counter[str]) -> None:
    prepare(tmp_path)
    data = str(tmp_path / "data" / "train.json")
    other = write_data(tmp_path / "data" / "other.json", [{"conversations": conversation("Hm?", "Hm.")}] * 4)
    gather(tmp_path, "--data_path", f"{data}:2", other)
    looks.clear()
    found = gather(tmp_path, "--data_path", data, f"{other}:2")
    assert looks == {"counted": 12}
    assert costs(found) == costs(gather(tmp_path, "--data_path", data, f"{other}:2", "--data_cache", "false"))


def test_another_release_is_judged_anew(tmp_path: Path, looks: Counter[str]) -> None:
    prepare(tmp_path)
    gather(tmp_path)
    shutil.rmtree(tmp_path / "base")
    shutil.copytree(FIXTURES / "v4", tmp_path / "base")
    looks.clear()
    gather(tmp_path)
    assert looks == {"judged": 4, "counted": 4}


def test_records_that_are_too_long_are_named_again(tmp_path: Path, looks: Counter[str]) -> None:
    prepare(tmp_path)
    path = tmp_path / "data" / "train.json"
    records = json.loads(path.read_text())
    records[1]["conversations"][1]["content"] = "So. " * 300
    write_data(path, records)
    first = gather(tmp_path, "--on_long_record", "skip", "--model_max_length", "400")
    looks.clear()
    second = gather(tmp_path, "--on_long_record", "skip", "--model_max_length", "400")
    assert looks == {"counted": 1}
    assert len(second.skipped) == 1
    assert second.skipped == first.skipped
    assert [record.id for record in second.train.records] == ["0", "2", "p"]
    assert costs(second) == costs(first)
