"""The page of a run: written at its end, and by ``minicpmv report`` at any time."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from minicpmv.cli.main import main
from minicpmv.training.monitoring.run_record import RunFile
from tests.run.training import flags, make_data, read_run, run_here
from tests.unit.report.runs import leave_lock
from tests.unit.report.test_page import curves_of, words_of

_EVALUATED = ["--eval_strategy", "steps", "--eval_steps", "2", "--save_steps", "2", "--eval_sample_tokens", "4"]
_LORA = ["--use_lora", "--lora_r", "4"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def finished(data: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("runs") / "finished"
    run_here(flags(data, output, *_LORA, *_EVALUATED, "--eval_data_path", data, "--report", "true"))
    return output


def test_a_run_ends_with_its_page_and_its_curve(finished: Path) -> None:
    run, page = read_run(finished), (finished / "report.html").read_text(encoding="utf-8")
    charts = {chart["name"]: chart for chart in curves_of(page)["charts"]}
    trained, held_out = (
        [[entry["step"], pytest.approx(entry[key], rel=1e-5)] for entry in run["log"] if key in entry]
        for key in ("loss", "eval_loss")
    )
    assert len(trained) == 4
    assert [series["points"] for series in charts["loss"]["series"]] == [trained, held_out]
    assert {"learning_rate", "grad_norm", "tokens_per_second", "memory_gib", "grad_norm_parts"} <= charts.keys()
    words = words_of(page)
    assert "finished" in words
    assert "Answers during training" in words
    assert "Records 8 for training, 8 for validation With images 6 of 8" in words
    assert page.count('<img src="data:image/') == 2
    pixels = np.asarray(Image.open(finished / "loss.png"))
    assert (pixels != 255).any(axis=2).mean() > 0.01


def test_data_are_counted_as_they_are_trained_on(finished: Path) -> None:
    run = read_run(finished)
    counted, plan = run["data_statistics"], run["plan"]
    assert counted["tokens"] == pytest.approx(plan["tokens_per_step"] * plan["steps_per_epoch"])
    assert 0 < counted["trained_tokens"] < counted["tokens"]
    assert sum(counted["length_histogram"]["counts"]) == counted["records"] == 8
    assert counted["length_histogram"]["edges"][0] == counted["record_lengths"]["min"]


def test_the_log_grows_beside_the_run_and_ends_as_that_of_run_json(finished: Path) -> None:
    lines = (finished / "log.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == read_run(finished)["log"]


def test_report_false_writes_none(data: str, tmp_path: Path) -> None:
    run_here(flags(data, tmp_path, *_LORA, "--report", "false", steps=1))
    assert not {"report.html", "loss.png"} & {path.name for path in tmp_path.iterdir()}


def test_a_page_that_cannot_be_written_costs_a_notice(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes in its way after the start: before it, that is refused."""

    def block(self: RunFile, **facts: Any) -> None:
        (tmp_path / "report.html").mkdir(exist_ok=True)
        write(self, **facts)

    write = RunFile.write
    monkeypatch.setattr(RunFile, "write", block)
    run = run_here(flags(data, tmp_path, *_LORA, "--report", "true", steps=1))
    assert run["status"] == "finished"
    told = capsys.readouterr().out
    assert "notice: the report was not written (" in told
    assert f"`minicpmv report {tmp_path}` tries again" in told
    assert "Talk to it:" in told


def test_a_run_that_was_killed_has_a_page(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """After step 3: behind its checkpoint, and before anything of its end was written."""
    killed = tmp_path / "killed"
    shutil.copytree(
        finished, killed, ignore=shutil.ignore_patterns("checkpoint-4", "report.html", "loss.png", "*verification*")
    )
    facts = {**read_run(finished), "status": "running"}
    del facts["log"], facts["metrics"]
    (killed / "run.json").write_text(json.dumps(facts), encoding="utf-8")
    log = (killed / "log.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (killed / "log.jsonl").write_text("".join(line for line in log if json.loads(line)["step"] < 4), encoding="utf-8")
    leave_lock(killed)
    assert main(["report", str(killed)]) == 0
    assert capsys.readouterr().out == f"{killed / 'report.html'}\n{killed / 'loss.png'}\n"
    page = (killed / "report.html").read_text(encoding="utf-8")
    assert "killed after step 3; can be resumed from checkpoint-2" in words_of(page)
    assert [step for step, _ in curves_of(page)["charts"][0]["series"][0]["points"]] == [1, 2, 3]

    (killed / "log.jsonl").unlink()  # as runs of an earlier release
    assert main(["report", str(killed)]) == 0
    page = (killed / "report.html").read_text(encoding="utf-8")
    assert [step for step, _ in curves_of(page)["charts"][0]["series"][0]["points"]] == [1, 2]


def test_two_runs_and_files_of_answers(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = str(tmp_path / "both.html")
    other = shutil.copytree(finished, tmp_path / "other")
    assert main(["report", str(finished), str(other), "--output", output]) == 0
    assert len(curves_of(Path(output).read_text(encoding="utf-8"))["runs"]) == 2
    line: dict[str, Any] = {"id": "a", "question": "Why?", "answer": "No.", "reference": "So."}
    for name, answer in (("before", "No."), ("after", "So.")):
        (tmp_path / name).write_text(json.dumps({**line, "answer": answer}) + "\n", encoding="utf-8")
    files = ["--before", str(tmp_path / "before"), "--after", str(tmp_path / "after")]
    assert main(["report", str(finished), *files, "--output", output]) == 0
    assert "became right Why? expected So. before No. after So. a" in words_of(Path(output).read_text(encoding="utf-8"))
    capsys.readouterr()


def test_only_a_page_of_a_run_is_replaced_by_one(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, other = (str(shutil.copytree(finished, tmp_path / name)) for name in ("run", "other"))
    weights = tmp_path / "run" / "adapter_model.safetensors"
    page = tmp_path / "runs.html"
    page.write_text("<!doctype html><title>mine</title>", encoding="utf-8")
    for place, words in ((weights, [run, "--output", str(weights)]), (page, [run, other])):
        content = place.read_bytes()
        assert main(["report", *words]) == 2
        assert capsys.readouterr().err == (
            f"error: --output {str(place)!r}: found a file there that is not a page of `minicpmv report`, expected a "
            "new one, or an earlier one of these\n  fix: name another, or move it away\n"
        )
        assert place.read_bytes() == content
    page.unlink()
    for _ in range(2):
        assert main(["report", run, other]) == 0
    (tmp_path / "run" / "report.html").write_text("of an earlier release", encoding="utf-8")
    assert main(["report", run]) == 0, "a run's own page has its place there"
    assert main(["report", run, "--output", str(tmp_path / "run" / "report.html")]) == 0
    capsys.readouterr()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nowhere"], "nowhere: found neither run.json nor a checkpoint, expected the --output_dir of a run"),
        (["RUN", "--before", "a.jsonl"], "--before: found without --after, expected both"),
        (["RUN", "RUN", "--before", "a", "--after", "b"], "--before, --after: found with 2 runs, expected one"),
        (["RUN", "--before", "a", "--after", "b"], "a: found no file of answers that can be read"),
        (["RUN", "--output", "missing/page.html"], "--output 'missing/page.html': found no folder 'missing'"),
    ],
)
def test_wrong_use_is_told(arguments: list[str], told: str, finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", *(str(finished) if word == "RUN" else word for word in arguments)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {told}")
