"""``minicpmv predict`` as a user types it."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from minicpmv.cli.main import main
from minicpmv.inference import predicting
from tests.run.forked import exit_code, start
from tests.tiny import FIXTURES, conversation, save_picture, write_data

MODEL = FIXTURES / "v2_6"


def make_data(folder: Path, *, num_records: int = 6) -> str:
    records: list[dict[str, Any]] = []
    for index in range(num_records):
        save_picture(folder / f"{index // 2}.png", 50 + 40 * (index // 2 % 3), 50, seed=index // 2)
        texts = conversation(f"<image>\nWhat is this? {'Well? ' * index}", "A cat.")
        texts = texts[:1] if index % 3 == 1 else texts
        records.append({"id": f"r{index}", "image": f"{index // 2}.png", "conversations": texts})
    return write_data(folder / "questions.json", records)


def flags(data: str, output: Path, *extra: str, tokens: int = 8) -> list[str]:
    return ["predict", str(MODEL), data, "--output", str(output), "--max-new-tokens", str(tokens), *extra]


def read(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_data(tmp_path_factory.mktemp("data"))


def test_every_record_gets_a_line_in_the_order_of_the_data(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.jsonl"
    assert main(flags(data, output, "--batch-size", "4")) == 0
    printed = capsys.readouterr()
    assert re.fullmatch(rf"answered 6 questions in [\d.]+ s, [\d.]+/s: {re.escape(str(output))}\n", printed.out)
    assert not printed.err
    lines = read(output)
    assert [(line["index"], line["id"]) for line in lines] == [(index, f"r{index}") for index in range(6)]
    assert [line.get("reference") for line in lines] == ["A cat.", None, "A cat.", "A cat.", None, "A cat."]
    assert lines[2]["question"] == "What is this? Well? Well? "
    alone = tmp_path / "alone.jsonl"
    assert main(flags(data, alone, "--batch-size", "1")) == 0
    assert alone.read_bytes() == output.read_bytes()
    capsys.readouterr()
    assert main(flags(data, output, "--batch-size", "4")) == 0
    assert capsys.readouterr().out == f"{output} holds this run's 6 answers: nothing to do\n"
    assert main(flags(data, output, "--batch-size", "4", "--overwrite")) == 0
    assert capsys.readouterr().out.startswith("answered 6 questions in")


def test_a_terminal_sees_how_far_it_is(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert main(flags(data, tmp_path / "out.jsonl", tokens=2)) == 0
    assert "6/6 [" in capsys.readouterr().err


def test_sampled_answers_follow_the_seed_alone(data: str, tmp_path: Path) -> None:
    outputs = [tmp_path / name for name in "abc"]
    sample = ["--sample", "--temperature", "1.5", "--top-p", "0.99", "--top-k", "300", "--repetition-penalty", "1.1"]
    for output, extra in zip(outputs, (["--seed", "1"], ["--seed", "1", "--batch-size", "1"], []), strict=True):
        assert main(flags(data, output, *sample, *extra)) == 0
    first, alone, other = (output.read_bytes() for output in outputs)
    assert first == alone != other


def kill_after(num_lines: int, arguments: Sequence[str], output: Path, log: Path) -> None:
    """Start the command, and kill it when its partial file has so many lines."""
    process = start(arguments, log=log, module="minicpmv")
    partial = output.with_name(f"{output.name}.partial")
    ends = time.monotonic() + 60
    while not (partial.exists() and partial.read_bytes().count(b"\n") >= num_lines):
        assert process.is_alive(), log.read_text()
        assert time.monotonic() < ends
        time.sleep(0.002)
    process.kill()
    assert exit_code(process) == -9
    assert not output.exists()


@pytest.mark.long
def test_killed_twice_it_ends_as_if_nothing_had_been(tmp_path: Path) -> None:
    data = make_data(tmp_path, num_records=12)
    whole, output, log = tmp_path / "whole.jsonl", tmp_path / "out.jsonl", tmp_path / "log"
    # Long enough answers that the process is killed between two batches, or within one.
    options = ["--batch-size", "2", "--sample", "--temperature", "2"]
    assert main(flags(data, whole, *options, tokens=50)) == 0
    arguments = flags(data, output, *options, tokens=50)
    kill_after(3, arguments, output, log)
    with output.with_name("out.jsonl.partial").open("ab") as file:
        file.write(b'0123456789abcdef {"index": 3, "ans')  # as if killed in the middle of a line
    kill_after(9, arguments, output, log)
    assert main([*arguments, "--seed", "5"]) == 2
    process = start(arguments, log=log, module="minicpmv")
    assert exit_code(process) == 0, log.read_text()
    assert output.read_bytes() == whole.read_bytes()
    (said,) = log.read_text().splitlines()
    found = re.fullmatch(r"answered (\d+) questions in .* \((\d+) more were answered earlier\): .*", said)
    assert found
    assert int(found[1]) + int(found[2]) == 12
    assert int(found[2]) >= 8


def test_what_is_wrong_is_said_without_a_traceback(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.jsonl"
    assert main(flags(data, output, tokens=2)) == 0
    assert main(flags(data, output, tokens=3)) == 2
    printed = capsys.readouterr().err
    assert "found a file of another run: max_new_tokens 2 and now 3, expected none" in printed
    assert "fix: name another file, or --overwrite" in printed
    broken = write_data(tmp_path / "broken.json", [{"conversations": [{"role": "system", "content": "Be brief."}]}])
    assert main(flags(broken, tmp_path / "other.jsonl")) == 2
    assert "[D123] found the role 'system' at the end, expected 'user'" in capsys.readouterr().err


@pytest.mark.parametrize("most", [4, 3, 1])
def test_a_batch_without_room_is_answered_in_halves(
    most: int,
    data: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a device that has room for so many records of these. The file is the one of a device with more."""
    tried: list[int] = []
    draw = predicting.draw_answers

    def draw_few(loaded: Any, inputs: Any, **how: Any) -> list[str]:
        tried.append(len(inputs["input_ids"]))
        if tried[-1] > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nAnd so on.")
        return draw(loaded, inputs, **how)

    roomy, narrow = tmp_path / "roomy.jsonl", tmp_path / "narrow.jsonl"
    assert main(flags(data, roomy, "--batch-size", "4")) == 0
    monkeypatch.setattr(predicting, "draw_answers", draw_few)
    assert main(flags(data, narrow, "--batch-size", "4")) == 0
    assert narrow.read_bytes() == roomy.read_bytes()
    # Once it has failed nothing of more than half is tried again. The second batch is of the two shortest records.
    assert tried == {4: [4, 2], 3: [4, 2, 2, 2], 1: [4, 2, 1, 1, 1, 1, 1, 1]}[most]
    assert len(caplog.messages) == {4: 0, 3: 1, 1: 2}[most]
    assert all(
        "(CUDA out of memory. Tried to allocate 2.00 GiB.), expected room for it; " in x for x in caplog.messages
    )
    most = 0
    assert main(flags(data, narrow, "--overwrite")) == 2
    printed = capsys.readouterr().err
    assert "memory: found too little memory for 1 record at once, with prompts of up to " in printed
    assert "fix: allow shorter answers (--max-new-tokens" in printed


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--top-k", "5"], "--top-k: found without --sample"),
        (["--seed", "5"], "--seed: found without --sample"),
        (["--sample", "--temperature", "0"], "found '0', expected a number above 0"),
        (["--sample", "--top-p", "1.5"], "found '1.5', expected a number above 0 and at most 1"),
        (["--repetition-penalty", "much"], "found 'much', expected a number above 0"),
        (["--batch-tokens", "0"], "found '0', expected a whole number of at least 1"),
    ],
)
def test_an_option_that_cannot_act_is_refused(
    extra: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main(flags("nothing.json", tmp_path / "out.jsonl", *extra))
    except SystemExit as ended:
        code = ended.code
    assert code == 2
    assert message in capsys.readouterr().err
