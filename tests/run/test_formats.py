"""The same records in every format train to the same losses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from minicpmv.cli.main import main
from tests.run.training import flags, losses, make_data, read_run
from tests.tiny import write_data

Records = list[dict[str, Any]]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(make_data(tmp_path_factory.mktemp("data"), num_records=4))


@pytest.fixture(scope="module")
def expected(data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    return train(str(data), tmp_path_factory.mktemp("seeds"))


def train(data: str, output: Path, *extra: str) -> list[float]:
    assert main(["train", *flags(data, output, "--save_strategy", "no", *extra)]) == 0
    return losses(read_run(output))


def as_lines(records: Records, folder: Path) -> Path:
    file = folder / "train.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return file


def as_sharegpt(records: Records, folder: Path) -> Path:
    names = {"user": "human", "assistant": "gpt"}
    made = [
        {
            **record,
            "conversations": [{"from": names[m["role"]], "value": m["content"]} for m in record["conversations"]],
        }
        for record in records
    ]
    return Path(write_data(folder / "sharegpt.json", made))


def _parts(record: dict[str, Any]) -> dict[str, Any]:
    messages = [dict(message) for message in record["conversations"]]
    if "image" in record:
        text = messages[0]["content"].removeprefix("<image>\n")
        image = {"type": "image_url", "image_url": {"url": record["image"]}}
        messages[0]["content"] = [image, {"type": "text", "text": text}]
    return {"id": record["id"], "messages": messages}


def as_openai(records: Records, folder: Path) -> Path:
    return Path(write_data(folder / "openai.json", [_parts(record) for record in records]))


def as_parquet(records: Records, folder: Path) -> Path:
    pa = pytest.importorskip("pyarrow", reason="needs the extra `data`")
    pq = pytest.importorskip("pyarrow.parquet")
    for record in records:
        if "image" in record:
            record["image"] = {"bytes": (folder / record["image"]).read_bytes(), "path": record["image"]}
    pq.write_table(pa.Table.from_pylist(records), folder / "train.parquet")
    return folder / "train.parquet"


@pytest.mark.long
@pytest.mark.parametrize("write", [as_lines, as_sharegpt, as_openai, as_parquet])
def test_formats_give_the_losses_of_our_own(write: Any, data: Path, expected: list[float], tmp_path: Path) -> None:
    assert len(expected) == 4
    assert train(str(write(json.loads(data.read_text()), data.parent)), tmp_path) == expected


def test_weight_two_is_the_data_twice(data: Path, tmp_path: Path) -> None:
    twice = train(f"{data}:2", tmp_path / "weight", "--max_steps", "6")
    arguments = flags(str(data), tmp_path / "files", "--save_strategy", "no", "--max_steps", "6")
    arguments.insert(arguments.index("--data_path") + 2, str(data))
    assert main(["train", *arguments]) == 0
    assert losses(read_run(tmp_path / "files")) == twice
    (described,) = read_run(tmp_path / "weight")["data"]
    assert (described["path"], described["weight"]) == (str(data), 2)


def test_half_of_the_data_is_chosen_by_the_seed_of_the_run(data: Path, tmp_path: Path) -> None:
    def seen(name: str, *extra: str) -> list[float]:
        return train(f"{data}:0.5", tmp_path / name, "--max_steps", "2", *extra)

    halves = [seen(str(seed), "--seed", str(seed)) for seed in range(3)]
    assert len({tuple(half) for half in halves}) > 1
    assert seen("data", "--seed", "0", "--data_seed", "1") == pytest.approx(halves[1])


def test_weight_for_evaluation_is_refused(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *flags(str(data), tmp_path / "output", "--eval_data_path", f"{data}:2")]) == 2
    assert "--eval_data_path: found the weight 2" in capsys.readouterr().err
