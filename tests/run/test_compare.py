"""``minicpmv compare``, and ``minicpmv eval --predictions``: files of answers, without a model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from minicpmv.cli.main import main


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(name: str, answers: Sequence[str], *, order: Sequence[int] | None = None, **more: Any) -> str:
    """Write answers to questions whose known answer is "yes", as ``minicpmv predict`` does."""
    lines = [
        {"id": f"r{number}", "index": number, "question": f"Is {number} so?", "answer": said, "reference": "yes"} | more
        for number, said in enumerate(answers)
    ]
    chosen = range(len(lines)) if order is None else order
    Path(name).write_text("".join(json.dumps(lines[number]) + "\n" for number in chosen), encoding="utf-8")
    return name


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(arguments) == 2
    return capsys.readouterr().err


def test_answers_are_scored_and_the_scores_written(capsys: pytest.CaptureFixture[str]) -> None:
    predictions = write("p.jsonl", ["yes", "<think>no</think>yes", "no", "Yes."])
    chosen = ["--metrics", "exact_match,normalized_match,cer", "--output", "s.jsonl"]
    assert main(["eval", "--predictions", predictions, *chosen]) == 0
    table = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in table[1:]] == [
        ["exact_match", "50.0%"],
        ["normalized_match", "75.0%"],
        ["cer", "41.7%"],
    ]
    lines = [json.loads(line) for line in Path("s.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["scores"]["exact_match"] for line in lines] == [1, 1, 0, 0]
    assert lines[1]["answer"] == "<think>no</think>yes", "as it was written"
    assert main(["eval", "--predictions", "s.jsonl"]) == 0, "a file of scores is one of answers"
    assert capsys.readouterr().out.splitlines()[1:] == ["exact_match             50.0%   15.0% to 85.0%       4"]


def test_only_a_file_of_scores_is_replaced_by_one(capsys: pytest.CaptureFixture[str]) -> None:
    measure = ["eval", "--predictions", write("p.jsonl", ["yes", "no"]), "--output"]
    others = {
        "adapter_model.safetensors": b'\x10\0\0\0\0\0\0\0{"a": {}}',
        "answers.jsonl": Path("p.jsonl").read_bytes(),  # of `minicpmv predict`
        "data.json": b'[{"conversations": []}]',
        "pairs.jsonl": b'{"conversations": [], "rejected": "no", "scores": {"by": "anls"}}\n',
    }
    for name, content in others.items():
        Path(name).write_bytes(content)
        told = refused([*measure, name], capsys)
        assert f"--output {name!r}: found a file there that is not answers with their scores, as `minicpmv eval" in told
        assert Path(name).read_bytes() == content
    Path("s.jsonl").touch()
    for metric in ("exact_match", "cer"):
        assert main([*measure, "s.jsonl", "--metrics", metric]) == 0
        assert json.loads(Path("s.jsonl").read_text().splitlines()[1])["scores"].keys() == {metric}
    capsys.readouterr()


def test_result_for_a_script(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "--predictions", write("p.jsonl", ["yes", "no"]), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    between = found["metrics"]["exact_match"]
    share = {"asked": 2, "of": 2, "of_weight_0": 0}
    assert found == {"records": 2, "answers": share, "metrics": {"exact_match": between}}
    assert between == pytest.approx({"value": 0.5, "low": 0.0945, "high": 0.9055, "records": 2}, abs=5e-5)  # Wilson


def test_references_of_several_people_are_used(capsys: pytest.CaptureFixture[str]) -> None:
    predictions = write("p.jsonl", ["no"], references=["yes", "yes", "no", "no", "no", "no"])
    assert main(["eval", "--predictions", predictions, "--metrics", "vqa_accuracy,exact_match", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["metrics"]
    assert (found["vqa_accuracy"]["value"], found["exact_match"]["value"]) == (1, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "p.jsonl: found no line"),
        ("{", "p.jsonl:1: found a line that is not JSON"),
        ('{"answer": 5}', "p.jsonl:1: found 5 for the answer, expected text"),
        ("[1]", "p.jsonl:1: found None for the answer"),
        ('\n{"answer": "a", "references": "a"}', "p.jsonl:2: found 'a' for the references"),
        ('{"answer": "a"}', "exact_match: found none of 1 record that it can measure"),
    ],
)
def test_file_that_holds_no_answers_is_named(text: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("p.jsonl").write_text(text)
    before = json.dumps({"answer": "no", "scores": {}})
    Path("s.jsonl").write_text(before)
    assert message in refused(["eval", "--predictions", "p.jsonl", "--output", "s.jsonl"], capsys)
    assert Path("s.jsonl").read_text() == before
    assert sorted(path.name for path in Path().iterdir()) == ["p.jsonl", "s.jsonl"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["eval", "--predictions", "nope.jsonl"], "nope.jsonl: found no file of answers that can be read"),
        (
            ["eval", "--predictions", "p.jsonl", "--output", "p.jsonl"],
            "--output: found 'p.jsonl', the data file itself",
        ),
        (["eval", "--predictions", "p.jsonl", "--output", "no/s.jsonl"], "--output 'no/s.jsonl': found no folder 'no'"),
        (["eval", "m", "d", "--metrics", "loss", "--blank-images"], "--blank-images: found with loss"),
        (["eval", "m", "d", "--model-max-length", "9"], "--model-max-length: found without loss or perplexity"),
        (["compare", "p.jsonl", "nope.jsonl"], "nope.jsonl: found no file of answers"),
    ],
)
def test_wrong_use_is_refused(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    write("p.jsonl", ["yes"])
    assert message in refused(arguments, capsys)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["eval", "m"], "expected MODEL and DATA, or --predictions FILE"),
        (["eval", "m", "--predictions", "p"], "--predictions: found MODEL as well"),
        (
            ["eval", "--predictions", "p", "--batch-size", "2", "--thinking"],
            "--predictions: found --batch-size, --thinking as well",
        ),
    ],
)
def test_options_that_cannot_act_are_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_difference_has_an_interval_and_a_test(capsys: pytest.CaptureFixture[str]) -> None:
    """Of 20 records, 9 get better and 1 worse, in another order."""
    first = write("a.jsonl", ["yes"] * 6 + ["no"] * 14)
    second = write("b.jsonl", ["no"] + ["yes"] * 14 + ["no"] * 5, order=[*range(19, -1, -1)])
    assert main(["compare", first, second, "--metrics", "exact_match,cer", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    row = found["differences"]["exact_match"]
    assert (row["first"], row["second"], row["difference"]) == (0.3, 0.7, pytest.approx(0.4))
    assert (row["num_better"], row["num_worse"], row["num_records"]) == (9, 1, 20)
    assert (row["test"], row["p_value"]) == ("McNemar", pytest.approx(0.011412, abs=1e-6))
    assert (row["low"], row["high"]) == (pytest.approx(0.1053, abs=1e-4), pytest.approx(0.6300, abs=1e-4))
    errors = found["differences"]["cer"]
    assert errors["test"] == "bootstrap"
    assert (errors["num_better"], errors["num_worse"]) == (9, 1), "lower is better"
    assert errors["p_value"] < 0.05
    assert errors["high"] < 0, "as the p-value says"
    assert (found["schema"], found["num_changed"], len(found["changes"])) == (1, 10, 10)
    assert found["changes"][0] == {
        "key": "r0",
        "question": "Is 0 so?",
        "references": ["yes"],
        "answers": ["yes", "no"],
        "scores": {"exact_match": [1, 0], "cer": [0, 1]},
    }


def test_pairing_makes_the_interval_narrow(capsys: pytest.CaptureFixture[str]) -> None:
    """Alike but for one record of 100: the interval is of that one, not of two independent halves."""
    first, second = write("a.jsonl", ["yes", "no"] * 50), write("b.jsonl", ["no", "no"] + ["yes", "no"] * 49)
    assert main(["compare", first, second, "--json"]) == 0
    row = json.loads(capsys.readouterr().out)["differences"]["exact_match"]
    assert row["difference"] == pytest.approx(-0.01)
    assert row["low"] < -0.01 < row["high"]
    assert row["high"] - row["low"] < 0.1, "0.28 where the halves are independent"


def test_changed_records_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    first, second = write("a.jsonl", ["yes", "no", "no"]), write("b.jsonl", ["yes", "yes", "perhaps"])
    assert main(["compare", first, second]) == 0
    assert (
        "'r1': exact_match 0 -> 1\n  question  'Is 1 so?'\n  expected  'yes'\n  A         'no'\n  B         'yes'\n"
        in (capsys.readouterr().out)
    )


def test_metrics_are_those_that_both_files_have_scores_of(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        chosen = ["--metrics", "anls,cer" if name == "a" else "cer", "--output", f"{name}.jsonl"]
        assert main(["eval", "--predictions", write("p.jsonl", ["yes"]), *chosen]) == 0
    capsys.readouterr()
    assert main(["compare", "a.jsonl", "b.jsonl", "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)["differences"]) == ["cer"]


@pytest.mark.parametrize(
    ("second", "more", "message"),
    [
        (["yes"], {}, "b.jsonl: found no line for 1 of 2 records of a.jsonl ('r1'), expected the same records"),
        (["yes"] * 3, {}, "a.jsonl: found no line for 1 of 3 records of b.jsonl ('r2')"),
        (["yes"] * 2, {"reference": "no"}, "b.jsonl: found other references for record 'r0' than in a.jsonl"),
        (
            ["yes"] * 2,
            {"id": "x", "index": 0},
            "b.jsonl:2: found record 'x (record 0)' again, expected each",
        ),
        (["yes"] * 2, {"id": "x", "index": None}, "b.jsonl:2: found record 'x' again, expected each record once"),
    ],
)
def test_files_of_other_records_are_refused(
    second: list[str], more: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first = write("a.jsonl", ["yes", "no"])
    assert message in refused(["compare", first, write("b.jsonl", second, **more)], capsys)


def test_records_that_share_an_id_are_matched_by_position_in_any_order(capsys: pytest.CaptureFixture[str]) -> None:
    """LLaVA's ids name pictures: three questions about one have one id."""
    answers = {0: "yes", 1: "no", 2: "yes"}
    for name, order, second in (("a", (0, 1, 2), "no"), ("b", (2, 0, 1), "yes")):
        said = {**answers, 1: second}
        lines = [{"id": "x", "index": index, "answer": said[index], "reference": f"r{index}"} for index in order]
        Path(f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main(["compare", "a.jsonl", "b.jsonl", "--metrics", "cer", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["num_records"], [change["key"] for change in found["changes"]]) == (3, ["x (record 1)"])
