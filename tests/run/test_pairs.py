"""``minicpmv pairs`` as a user types it: answers are drawn once, judged, paired, and written as records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from minicpmv.cli.main import main
from minicpmv.evaluation.measuring.judging import Judging
from minicpmv.inference import predicting
from minicpmv.inference.loading import load_model
from tests.run.test_predict import make_data, read
from tests.tiny import FIXTURES, conversation, write_data

MODEL = FIXTURES / "v2_6"
QUESTION = "Question: {question}\nAnswer: {answer}\nRight?"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_data(tmp_path_factory.mktemp("data"), num_records=3)


def flags(data: str, output: Path, *extra: str) -> list[str]:
    written = ["pairs", str(MODEL), data, "--output", str(output), "--max-new-tokens", "6"]
    number = [] if "--answers" in extra else ["--answers", "4"]
    return [*written, *number, *(extra or ("--judge", "cer", "--keep-lengths"))]


def ended(command: list[str]) -> object:
    try:
        return main(command)
    except SystemExit as stop:
        return stop.code


def test_pairs_of_a_metric_are_records_with_a_worse_answer(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of three questions one has no known answer, and so no score. Lower is better of cer."""
    output = tmp_path / "out" / "pairs.jsonl"
    output.parent.mkdir()
    assert main(flags(data, output)) == 0
    said = capsys.readouterr().out
    assert f"wrote 4 pairs of 3 questions to {output}" in said
    assert "1 question gave no pair: 1 fewer than two scored answers" in said
    answers = read(Path(f"{output}.answers.jsonl"))
    assert [(line["index"], line["draw"]) for line in answers] == [(n, draw) for n in range(3) for draw in (1, 2, 3, 4)]
    pairs = read(output)
    assert [pair["id"] for pair in pairs] == ["r0", "r0", "r2", "r2"]
    said = {index: {line["answer"] for line in answers if line["index"] == index} for index in range(3)}
    for pair in pairs:
        question, chosen = pair["conversations"]
        assert question["content"].startswith("<image>\nWhat is this? ")
        assert (tmp_path / "out" / pair["image"]).resolve().is_file(), "a path from where the new file is"
        assert {chosen["content"], pair["rejected"]} <= said[int(pair["id"][1:])]
        assert chosen["content"] != pair["rejected"]
        assert pair["scores"]["chosen"] < pair["scores"]["rejected"]
        assert pair["scores"]["by"] == "cer"
    assert main(["check", str(output)]) == 0
    assert "'scores'" not in capsys.readouterr().out, "nothing that this package wrote is named as unread"


def test_where_no_pair_comes_out_the_reason_and_a_fix_are_told(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A random model is wrong every time."""
    output = tmp_path / "pairs.jsonl"
    assert main(flags(data, output, "--judge", "exact_match", "--answers", "2")) == 0
    said = capsys.readouterr().out
    assert "wrote 0 pairs of 3 questions" in said
    assert "3 questions gave no pair: 2 wrong every time, 1 fewer than two scored answers" in said
    assert "fix: teach the model such answers first" in said


def test_a_recorded_answer_is_the_better_one_where_no_other_is_as_good(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "pairs.jsonl"
    more = (
        "--judge",
        "exact_match",
        "--answers",
        "2",
        "--with-recorded",
        "--keep-lengths",
        "--pairs-per-question",
        "1",
    )
    assert main(flags(data, output, *more)) == 0
    assert "wrote 2 pairs of 3 questions" in capsys.readouterr().out
    recorded = {record["id"]: record["conversations"][-1]["content"] for record in json.loads(Path(data).read_text())}
    for pair in read(output):
        assert pair["conversations"][-1]["content"] == recorded[pair["id"]] != pair["rejected"]
        assert (pair["scores"]["chosen"], pair["scores"]["rejected"]) == (1, 0)


def test_killed_run_goes_on_and_gives_the_same_pairs(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, broken = tmp_path / "whole.jsonl", tmp_path / "broken.jsonl"
    assert main(flags(data, whole)) == 0
    batches: list[Any] = []
    draw = predicting.draw_answers

    def draw_and_count(*args: Any, **kwargs: Any) -> Any:
        batches.append(1)
        if len(batches) == 2:
            raise KeyboardInterrupt
        return draw(*args, **kwargs)

    more = ("--judge", "cer", "--keep-lengths", "--batch-size", "4")
    monkeypatch.setattr(predicting, "draw_answers", draw_and_count)
    assert main(flags(data, broken, *more)) == 130
    assert not broken.exists()
    assert main(flags(data, broken, *more)) == 0
    assert len(batches) == 2 + 2, "three batches, the first of them kept"
    capsys.readouterr()
    assert main(flags(data, broken, *more)) == 0
    assert "holds this run's pairs: nothing to do" in capsys.readouterr().out
    assert len(batches) == 4
    pairs, others = read(broken), read(whole)
    assert [pair["rejected"] for pair in pairs] == [pair["rejected"] for pair in others]
    assert main(flags(data, broken, *more, "--pairs-per-question", "1")) == 2, "it is a file of another run"
    assert "pairs_per_question 2 and now 1" in capsys.readouterr().err


def test_model_judges_by_its_first_token(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its probabilities are those of a plain forward pass on the question with the answer in it."""
    output = tmp_path / "pairs.jsonl"
    assert main(flags(data, output, "--judge-question", QUESTION, "--judge-question", "{answer}?")) == 0
    said = capsys.readouterr()
    assert "yes and no together are less likely than 10% for 12 of 12 answers" in said.err
    answers, judged = read(Path(f"{output}.answers.jsonl")), read(Path(f"{output}.judged.jsonl"))
    others = read(Path(f"{output}.judged2.jsonl"))
    assert judged[5]["question"] == QUESTION.format(
        question=answers[5]["question"].strip(), answer=answers[5]["answer"]
    )
    loaded = load_model(str(MODEL), device="cpu")
    picture = str(Path(data).parent / "0.png")
    content = [{"type": "image", "image": picture}, {"type": "text", "text": judged[5]["question"]}]
    inputs = loaded.processor.apply_chat_template([{"role": "user", "content": content}])
    with torch.no_grad():
        likely = loaded.model(**inputs).logits[0, -1].softmax(dim=-1)
    tokenizer = loaded.processor.tokenizer
    for name in ("yes", "no"):
        ids = {tokenizer.encode(word, add_special_tokens=False)[0] for word in (name, name.title())}
        assert judged[5][name] == pytest.approx(sum(float(likely[number]) for number in ids), rel=1e-4)
    accepted = [(one["yes"] > one["no"]) + (two["yes"] > two["no"]) for one, two in zip(judged, others, strict=True)]
    scores = {(line["index"], line["answer"]): score for line, score in zip(answers, accepted, strict=True)}
    for pair in read(output):
        index = int(pair["id"][1:])
        better, worse = pair["conversations"][-1]["content"], pair["rejected"]
        assert pair["scores"] == {"by": "accepted", "chosen": scores[index, better], "rejected": scores[index, worse]}
        assert scores[index, better] - scores[index, worse] >= 1


def test_yes_and_no_with_one_first_token_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from minicpmv.errors import UsageError

    loaded = load_model(str(MODEL), device="cpu")
    monkeypatch.setattr(type(loaded.processor.tokenizer), "encode", lambda *args, **kwargs: [7, 8])
    with pytest.raises(UsageError, match="'yes' and 'no' begin with the same token"):
        next(Judging()(loaded, []))


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ((), "one of the arguments --judge --judge-question is required"),
        (("--judge", "cer", "--answers", "1"), "--answers: found 1, expected at least 2"),
        (("--judge", "yes_no"), "--judge yes_no: found 6 metrics, expected one that scores answers"),
        (("--judge", "loss"), "--judge loss: found a metric of losses"),
        (("--judge", "cer", "--judge-model", str(MODEL)), "--judge-model: found without --judge-question"),
        (("--judge-question", "{answer}?", "--with-recorded"), "--with-recorded: found with --judge-question"),
        (("--judge-question", "Right?"), "expected {answer} in it"),
        (("--judge", "cer", "--min-gap", "-1"), "found '-1', expected a number of at least 0"),
        (("--judge", "cer", "--temperature", "0"), "found '0', expected a number above 0"),
    ],
)
def test_what_does_not_go_together_is_wrong_use(
    data: str, tmp_path: Path, extra: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["pairs", str(MODEL), data, "--output", str(tmp_path / "out.jsonl"), *extra]
    assert ended(command) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_missing_judge_is_refused_before_anything_is_asked(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judge = ("--judge-question", "{answer}?", "--judge-model", str(tmp_path / "none"))
    assert main(flags(data, tmp_path / "out.jsonl", *judge)) == 2
    assert "found no directory" in capsys.readouterr().err
    assert not (tmp_path / "out.jsonl.answers.jsonl").exists()


def test_metric_without_a_known_answer_is_refused_before_anything_is_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_data(tmp_path / "open.json", [{"id": "a", "conversations": conversation("What?")}])
    assert main(flags(data, tmp_path / "out.jsonl")) == 2
    assert "--judge cer: found no record with an answer, expected an answer that is known" in capsys.readouterr().err
    assert not (tmp_path / "out.jsonl.answers.jsonl").exists()
