"""Whatever value of ``run.json`` is damaged, a page is made, and says what was left out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from minicpmv.cli.main import main
from minicpmv.report.writing import write_report
from tests.unit.report.runs import facts, write_lines, write_run

STATISTICS = {"records": 8, "validation_records": 2, "tokens": 100, "trained_tokens": 10, "image_tokens": 64}
STATISTICS |= {"records_with_images": 6, "records_with_fewer_slices": 0, "records_with_cut_answers": 1}
SPREAD = {"min": 3, "max": 20, "median": 8.5, "p95": 19}
HISTOGRAM = {"counts": [3, 5], "edges": [0, 10.5, 21]}
WHOLE = facts(
    log=facts()["log"][:4],
    data_statistics=STATISTICS | {"record_lengths": SPREAD, "length_histogram": HISTOGRAM},
    stopped_by="SIGTERM",
)

DAMAGED = (None, "{x}", "\0", -1, 1.5, float("nan"), 10**400, True, [[]], {"x": 1})


def places(value: Any, at: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    if at:
        yield at
    if isinstance(value, dict):
        for key, each in value.items():
            yield from places(each, (*at, key))
    elif isinstance(value, list):
        for number, each in enumerate(value[:2]):
            yield from places(each, (*at, number))


def damaged(at: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    changed = json.loads(json.dumps(WHOLE))
    inside = changed
    for key in at[:-1]:
        inside = inside[key]
    inside[at[-1]] = value
    return changed


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("other"))


@pytest.mark.parametrize(
    "values", [("{x}",), pytest.param(DAMAGED, marks=pytest.mark.slow)], ids=["of another kind", "anything"]
)
@pytest.mark.parametrize("name", WHOLE)
def test_page_is_made_of_whatever_is_damaged(name: str, values: Sequence[Any], tmp_path: Path, other: Path) -> None:
    samples = [{"step": step, "set": "", "id": "a", "question": "q", "expected": "e", "answer": "x"} for step in (0, 2)]
    write_run(tmp_path, samples=samples)
    for file in ("before.jsonl", "after.jsonl"):
        write_lines(tmp_path / file, [{"id": "a", "question": "q", "answer": "x", "reference": "e"}])
    for at in places(WHOLE[name], (name,)):
        for value in values:
            (tmp_path / "run.json").write_text(json.dumps(damaged(at, value)), encoding="utf-8")
            runs = [tmp_path, other] if value == "{x}" else [tmp_path]
            write_report([str(run) for run in runs], output=str(tmp_path / "page.html"))


@pytest.mark.parametrize(
    ("at", "value", "expected"),
    [
        (("started",), "yesterday", "started, expected a date and a time"),
        (("processes",), "two", "processes, expected a whole number of at least 0"),
        (("data_statistics", "records"), None, "data_statistics, expected an object with 'records', something"),
        (("training_arguments", "max_steps"), "x", "training_arguments, expected an object with 'max_steps', a finite"),
        (("trained",), [1], "trained, expected a list"),
    ],
)
def test_damaged_value_is_named(
    at: tuple[str | int, ...], value: Any, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.json").write_text(json.dumps(damaged(at, value)), encoding="utf-8")
    assert main(["report", str(tmp_path)]) == 0
    assert f"a damaged value in run.json, which is left out: {expected}" in capsys.readouterr().err
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert expected.partition(", expected")[0] in page
    assert "What could not be read" in page


def test_undamaged_run_has_no_faults(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps(WHOLE), encoding="utf-8")
    assert write_report([str(tmp_path)]).faults == ()
