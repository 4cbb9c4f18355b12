from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from minicpmv.report.writing import write_report
from tests.films import make_film
from tests.tiny import save_picture
from tests.unit.report.runs import LOG, answer_line, facts, sample, write_lines, write_run
from tests.unit.show.pages import read_page

SCRIPT = "</script><script>alert('x')</script> & \"<b>\" {{ 7 * 7 }}"
HALF_A_CHARACTER = "\ud83d"


def page_of(*runs: Path, **options: Any) -> str:
    return write_report([str(run) for run in runs], **options).page.read_text(encoding="utf-8")


def curves_of(page: str) -> dict[str, Any]:
    """Return what the script of the page reads."""
    return json.loads(page.partition('id="curves">')[2].partition("</script>")[0])


def words_of(page: str) -> str:
    """Return the text of a page, with a space where an element ends."""
    return " ".join(read_page(page.replace("><", "> <")).text.split())


def test_the_page_has_the_numbers_of_the_run(tmp_path: Path) -> None:
    written = write_report([str(write_run(tmp_path / "run"))])
    assert (written.page, written.picture) == (tmp_path / "run" / "report.html", tmp_path / "run" / "loss.png")
    page = written.page.read_text(encoding="utf-8")
    loss = curves_of(page)["charts"][0]
    assert loss["series"][0]["points"] == [[entry["step"], entry["loss"]] for entry in LOG if "loss" in entry]
    text = words_of(page)
    assert "validation loss 2.5 → 1.5" in text
    assert "training loss, mean of first and last epoch 3 → 1.25" in text
    assert "anls, at evaluation 25.0% → 75.0%" in text
    assert "Steps 3 of 6" in text
    assert "75 s" in text
    assert "cd /start/here python -m minicpmv.training --learning_rate 1e-3 --lora_r 8" in text
    assert "ab" * 32 in text


def test_the_head_is_about_the_model_that_was_saved(tmp_path: Path) -> None:
    """With ``--keep_best`` that is not what was measured last."""
    text = words_of(page_of(write_run(tmp_path, metrics={"eval_loss": 2.5, "eval_anls": 0.25})))
    assert "validation loss 2.5 → 2.5" in text
    assert "anls, at evaluation 25.0% → 25.0%" in text


def test_a_run_in_its_first_epoch_shows_the_mean_until_now(tmp_path: Path) -> None:
    log = [{"step": 1, "loss": 4.0}, {"step": 2, "loss": 2.0}]
    assert "training loss, mean until now 3" in words_of(page_of(write_run(tmp_path, log=log)))


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (
            {"status": "running", "log": LOG[:1]},
            "not finished: ended after step 1, and its console said why",
        ),
        ({"status": "stopped", "stopped_by": "SIGTERM"}, "stopped by SIGTERM after step 3; can be resumed"),
        ({"status": "not verified"}, "saved, but verification failed"),
    ],
)
def test_a_run_that_is_not_finished_says_so(changed: dict[str, Any], told: str, tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path, **changed))
    assert told in read_page(page).text
    assert '<p class="status open">' in page


def test_a_run_that_has_logged_nothing_has_a_page_and_no_picture(tmp_path: Path) -> None:
    run = write_run(tmp_path, status="running", log=None)
    (run / "loss.png").touch()
    assert "Nothing has been logged yet." in page_of(run)
    assert not (run / "loss.png").exists(), "it was of a run before"


def test_a_run_json_that_says_little_is_enough(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"status": "?", "data": null, "trained": null, "plan": null}')
    assert "Nothing has been logged yet." in page_of(tmp_path)


def test_answers_stand_with_their_pictures(tmp_path: Path) -> None:
    save_picture(tmp_path / "digit.png", 50, 40)
    run = write_run(tmp_path / "run", samples=[], working_directory=str(tmp_path))
    for name, answer in (("before", "no"), ("after", "yes")):
        write_lines(run / f"{name}.jsonl", [answer_line("r", answer, "yes", images=["digit.png", "gone.png"])])
    page = page_of(run)
    read = read_page(page)
    assert [link[:22] for link in read.links] == ["data:image/png;base64,"] * 2, (
        "the picture, and the loss without scripts"
    )
    text = words_of(page)
    assert "gone.png: no such file became right Is it? expected yes before no after yes r" in text
    assert "exact_match 0.0% 100.0%" in text


def test_answers_of_an_earlier_run_in_the_same_place_are_passed_over(tmp_path: Path) -> None:
    run = write_run(tmp_path, started="2999-01-01T00:00:00+00:00")
    for name in ("before", "after"):
        write_lines(run / f"{name}.jsonl", [answer_line("r", "yes", "yes")])
    assert "Answers before and after" not in page_of(run)
    files = {name: str(run / f"{name}.jsonl") for name in ("before", "after")}
    assert "Answers before and after" in page_of(run, **files), "named, they are taken"


def hostile_run(folder: Path) -> Path:
    arguments = {**facts()["arguments"], "lora_target_modules": SCRIPT, "data_path": ["x" * 1_000_000]}
    long = f"{SCRIPT} {'y' * 1_000_000}"
    samples = [
        sample(step, text, record=SCRIPT, expected=HALF_A_CHARACTER, images=[SCRIPT, "\0", "z" * 5000])
        for step, text in ((0, SCRIPT), (1, long), (2, HALF_A_CHARACTER))
    ]
    log = [*LOG, {"step": 4, f"eval_{SCRIPT}": 1.0, f"grad_norm/{SCRIPT}": 1.0}]
    run = write_run(
        folder, samples=samples, arguments=arguments, command=f"x --lora_target_modules={SCRIPT!r}", log=log
    )
    with (run / "samples.jsonl").open("ab") as file:
        file.write(b'{"step": 2, "record": "\xff", "answer": "\xff\xfe"}\n\xff\n')
    return run


def test_all_that_comes_from_a_run_is_text(tmp_path: Path) -> None:
    page = page_of(hostile_run(tmp_path))
    assert page.count("<script") == 2, "our own, at the end of the page"
    assert "<b>" not in page
    assert len(page) < 300_000
    text = read_page(page).text
    assert SCRIPT in text
    assert "and 998,5" in text, "of a text of a million characters"
    assert "1 line of samples.jsonl" in text
    assert SCRIPT in [chart["title"] for chart in curves_of(page)["charts"]]


def test_several_runs_are_laid_over_one_another(tmp_path: Path) -> None:
    other = {**facts()["training_arguments"], "learning_rate": 1e-4}
    runs = write_run(tmp_path / "a" / "lora"), write_run(tmp_path / "b" / "lora", training_arguments=other)
    page = page_of(*runs, output=str(tmp_path / "both.html"))
    curves = curves_of(page)
    assert curves["runs"] == ["a/lora", "b/lora"]
    assert {series["run"] for series in curves["charts"][0]["series"]} == {0, 1}
    text = words_of(page)
    assert "setting a/lora b/lora learning_rate 0.001 0.0001 Curves" in text
    assert not (runs[0] / "loss.png").exists()


def test_a_page_needs_nothing_beside_it(tmp_path: Path) -> None:
    page = page_of(hostile_run(tmp_path / "a"), write_run(tmp_path / "b"), output=str(tmp_path / "page.html"))
    read = read_page(page)
    assert [link[:60] for link in read.links if not link.startswith(("#", "data:image/"))] == []
    assert not {"link", "iframe", "object", "embed", "base"} & set(read.tags)
    assert "url(" not in read.style
    assert "@import" not in read.style
    assert "http" not in page.replace("fetch", "").partition("<body>")[0]
    assert "//" not in page.rpartition("<script>")[2].replace("// ", "").replace("/** ", ""), "no address in our script"


def test_answers_about_a_film_have_a_strip_of_its_frames(tmp_path: Path) -> None:
    make_film(tmp_path / "a.mp4", num_frames=50)
    videos = [{"video": str(tmp_path / "a.mp4"), "shown_at": [0.0, 1.5]}, {"video": "gone.mp4", "shown_at": [0.0]}]
    samples = [sample(step, "no", videos=videos) for step in (0, 3)]
    page = page_of(write_run(tmp_path / "run", samples=samples))
    assert page.count('<li><button type="button" class="enlarge"><img src="data:image/png;base64,') == 2
    assert 'alt="frame at 1.5 seconds"' in page
    assert "gone.mp4: no such file" in words_of(page)


def test_the_curves_have_tables_of_their_values(tmp_path: Path) -> None:
    log = [{"step": step, "loss": 1 / step} for step in range(1, 501)]
    text = words_of(page_of(write_run(tmp_path, log=log)))
    assert "the curves as tables Loss, nats per trained token step 1 46 " in text
    assert "455 500 value 1 0.02174 " in text


def test_what_the_expected_answer_has_not_is_marked(tmp_path: Path) -> None:
    expected = "a red house stands beside a green tree, and a grey cat sleeps in front of it"
    samples = [
        sample(step, text, expected=expected) for step, text in ((0, ""), (3, expected.replace("grey", "black")))
    ]
    page = page_of(write_run(tmp_path, samples=samples))
    assert "<mark>black</mark>" in page
    assert 'class="answers long"' in page
    assert "step 0 (nothing)" in words_of(page)


def test_white_space_as_an_answer_is_said(tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path, samples=[sample(0, "yes"), sample(3, " \n")]))
    assert "step 3 (white space only)" in words_of(page)
