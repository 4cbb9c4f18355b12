"""``--turns`` of ``minicpmv eval`` and ``predict``: which answers are asked for, and what share of all is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from minicpmv.cli.main import main
from tests.parity.cases import FIXTURES
from tests.run.forked import minicpmv
from tests.run.test_chat import SLICED

MODEL = FIXTURES / "v2_6"
_SHORT = ("--max-new-tokens", "4")
_SHARE = "3 of 4 answers: the last one of each record"


def _record(name: str, *answers: str | tuple[str, float]) -> dict[str, Any]:
    conversation: list[dict[str, Any]] = []
    for number, answer in enumerate(answers):
        text, weight = (answer, 1) if isinstance(answer, str) else answer
        conversation.append({"role": "user", "content": ("" if number else "<image>\n") + f"Question {number}?"})
        conversation.append({"role": "assistant", "content": text, "weight": weight})
    return {"id": name, "image": str(MODEL / SLICED), "conversations": conversation}


RECORDS = [_record("a", "One.", ("Two.", 0), "Three."), _record("b", "Four."), _record("c", "Five.", ("Six.", 0))]


def _write(file: Path, records: list[dict[str, Any]]) -> Path:
    file.write_text(json.dumps(records), encoding="utf-8")
    return file


def _lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def _run(*arguments: str | Path) -> str:
    done = minicpmv(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


class Asked:
    """One data file, and the answers of one model to its last questions and to all."""

    def __init__(self, folder: Path) -> None:
        self.data = _write(folder / "data.json", RECORDS)
        self.last, self.all, self.predicted = (folder / f"{name}.jsonl" for name in ("last", "all", "predicted"))
        self.said_of_last = _run("eval", MODEL, self.data, *_SHORT, "--output", self.last)
        self.said_of_all = _run("eval", MODEL, self.data, *_SHORT, "--output", self.all, "--turns", "all")
        self.predicting = ("predict", MODEL, self.data, *_SHORT, "--output", self.predicted)
        self.said_of_predicted = _run(*self.predicting, "--turns", "all")


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Asked:
    return Asked(tmp_path_factory.mktemp("asked"))


def test_the_last_answer_that_has_a_weight_is_measured(asked: Asked) -> None:
    assert [(line["id"], line["reference"]) for line in _lines(asked.last)] == [
        ("a", "Three."),
        ("b", "Four."),
        ("c", "Five."),
    ]
    more = "(2 more have weight 0 and are only read); --turns all asks for every one"
    assert asked.said_of_last.splitlines()[2:] == [f"measured {_SHARE} {more}"]


def test_every_answer_that_has_a_weight_is_asked_for_after_the_recorded_ones(asked: Asked) -> None:
    lines = _lines(asked.all)
    assert [(line["id"], line["index"], line["turn"], line["reference"]) for line in lines] == [
        ("a", 0, 1, "One."),
        ("a", 0, 2, "Three."),
        ("b", 1, 1, "Four."),
        ("c", 2, 1, "Five."),
    ]
    assert asked.said_of_all.splitlines()[2:] == ["measured 4 of 4 answers (2 more have weight 0 and are only read)"]
    assert [line["answer"] for line in lines[1:]] == [line["answer"] for line in _lines(asked.last)]


def test_every_answer_is_that_to_the_record_cut_there(asked: Asked, tmp_path: Path) -> None:
    cut = RECORDS[0] | {"conversations": RECORDS[0]["conversations"][:2]}
    _run("eval", MODEL, _write(tmp_path / "cut.json", [cut]), *_SHORT, "--output", tmp_path / "cut.jsonl")
    assert _lines(tmp_path / "cut.jsonl")[0]["answer"] == _lines(asked.all)[0]["answer"]


def test_predict_asks_for_the_same_and_says_the_share(asked: Asked) -> None:
    told = [
        {name: line[name] for name in ("id", "index", "turn", "question", "answer", "reference")}
        for line in _lines(asked.all)
    ]
    predicted = _lines(asked.predicted)
    assert [{name: line[name] for name in told[0]} for line in predicted] == told
    assert "asked for 4 of 4 answers (2 more have weight 0" in asked.said_of_predicted
    assert "4 answers: nothing to do" in _run(*asked.predicting, "--turns", "all")
    other = minicpmv(*asked.predicting)
    assert other.returncode == 2
    assert "found a file of another run: turns all and now last" in other.stderr


def test_the_share_is_said_of_files(asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "--predictions", str(asked.last)]) == 0
    assert capsys.readouterr().out.splitlines()[2:] == [f"measured {_SHARE}"]
    assert main(["eval", "--predictions", str(asked.predicted), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["answers"] == {"asked": 4, "of": 4, "of_weight_0": 0}
    assert main(["compare", str(asked.last), str(asked.last)]) == 0
    assert f"\ncompared {_SHARE}\n" in capsys.readouterr().out
    assert main(["compare", str(asked.all), str(asked.predicted)]) == 0
    assert "compared" not in capsys.readouterr().out


def test_no_share_is_said_where_every_answer_is_measured(tmp_path: Path) -> None:
    said = _run("eval", MODEL, _write(tmp_path / "one.json", RECORDS[1:2]), *_SHORT)
    assert len(said.splitlines()) == 2


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["eval", "--turns", "all", "--metrics", "loss"], "--turns all: found with loss or perplexity"),
        (["predict", "--output", "out.jsonl"], "record 0 (id 'd'): found the weight 0 for every answer"),
    ],
)
def test_what_cannot_be_asked_is_refused(
    command: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    data = _write(tmp_path / "data.json", [_record("d", ("None.", 0))])
    assert main([command[0], str(MODEL), str(data), *command[1:]]) == 2
    assert message in capsys.readouterr().err


def test_the_same_index_three_times_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "answers.jsonl"
    file.write_text('{"index": 4, "answer": "a", "reference": "a"}\n' * 3, encoding="utf-8")
    assert main(["eval", "--predictions", str(file)]) == 2
    assert "answers.jsonl:2: found record 4 again, expected each record once" in capsys.readouterr().err
