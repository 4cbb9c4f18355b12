"""``minicpmv check`` and ``minicpmv explain`` as a user types them."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from minicpmv.cli.main import main
from minicpmv.data.samples.lengths import padding_share, plan_rows
from minicpmv.data.sources.survey import Survey
from minicpmv.data.sources.survey_report import statistics_lines
from tests.docs.repository import ROOT
from tests.tiny import FIXTURES, conversation, picture, save_picture, write_data

MODEL = str(FIXTURES / "v2_6")
GOOD = {"id": "a7", "conversations": conversation("Why?", "So.")}
BAD = {"id": "a7", "conversations": [{"role": "human", "content": "Why?"}, conversation("", "So.")[1]]}


def check(folder: Path, capsys: pytest.CaptureFixture[str], records: Any, *options: str) -> tuple[int, str]:
    code = main(["check", write_data(folder / "train.json", records), *options])
    return code, capsys.readouterr().out


def check_json(folder: Path, capsys: pytest.CaptureFixture[str], records: Any, *options: str) -> dict[str, Any]:
    return json.loads(check(folder, capsys, records, "--json", *options)[1])


@pytest.fixture
def turned(tmp_path: Path) -> dict[str, Any]:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture().save(tmp_path / "turned.jpg", exif=exif)
    return {"id": "a8", "image": "turned.jpg", "conversations": conversation("Why?", "So.")}


def test_exit_code_is_0_without_1_with_problems_and_2_for_wrong_use(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], turned: dict[str, Any]
) -> None:
    assert check(tmp_path, capsys, [GOOD])[0] == 0
    assert check(tmp_path, capsys, [GOOD, turned])[0] == 0, "a notice is no problem"
    assert check(tmp_path, capsys, [BAD, turned])[0] == 1
    assert main(["check", str(tmp_path / "nowhere.json")]) == 1
    assert main(["check", str(tmp_path / "train.json"), "--image-root", str(tmp_path / "nowhere")]) == 2
    assert main(["check", str(tmp_path / "train.json"), "--model", str(tmp_path / "nowhere")]) == 2
    wrong = [["--batch-size", "4"], ["--pack-length", "4096"], ["--examples", "-1"], ["--nonsense"]]
    for options in (*wrong, ["--model", MODEL, "--no-images"]):
        with pytest.raises(SystemExit) as ended:
            main(["check", str(tmp_path / "train.json"), *options])
        assert ended.value.code == 2


def test_output_is_the_one_that_the_page_shows(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    turned: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_data(Path("train.json"), [BAD, turned])
    main(["check", "train.json"])
    page = (ROOT / "docs" / "data.md").read_text(encoding="utf-8").partition("## Check before you train")[2]
    shown = re.search(r"```text\n(.*?)```", page, re.DOTALL)
    assert shown is not None
    assert capsys.readouterr().out == shown[1]


def test_problems_of_all_files_are_counted_and_the_first_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = [{**BAD, "id": number} for number in range(5)]
    other = write_data(tmp_path / "other.json", [*bad, GOOD])
    code, out = check(tmp_path, capsys, bad, other, str(tmp_path / "nowhere.json"), "--examples", "2")
    assert code == 1
    assert "D122 An unknown role: 10\n" in out
    assert out.count("found the role 'human'") == 2
    assert "... and 8 more\n" in out
    assert "D101 The data file cannot be read: 1\n" in out
    assert "11 problems: 10 in 10 of 11 records, 1 of whole files; no notice." in out


def test_problems_in_the_text_are_seen_even_if_the_user_stops_while_images_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(self: Survey, **_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Survey, "read_images", stop)
    code, out = check(tmp_path, capsys, [BAD])
    assert code == 130
    assert "D122 An unknown role: 1\n" in out


def test_json_has_the_documented_keys(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], turned: dict[str, Any]
) -> None:
    report = check_json(tmp_path, capsys, [BAD, turned], "--model", MODEL)
    page = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| ([`., a-z_]+) \| (.*) \|$", page.partition("`--json` prints")[2], re.MULTILINE))
    documented = {key for cell in rows if not cell.startswith("...") for key in re.findall(r"`(\w+)`", cell)}
    assert set(report) == documented
    for name in ("statistics", "model"):
        assert set(report[name]) <= set(re.findall(r"`(\w+)`", rows[f"`{name}`"])), name
    (example,) = report["problems"]["codes"][0]["examples"]
    assert set(example) == set(re.findall(r"`(\w+)`", rows["... `examples`"]))
    assert (example["line"], example["record"], example["id"]) == (2, 0, "a7")
    assert (report["problems"]["count"], report["problems"]["records"]) == (1, 1)
    assert [group["code"] for group in report["notices"]["codes"]] == ["D302"]
    assert report["statistics"] == {
        "records": 2,
        "turns": 4,
        "records_with_images": 1,
        "records_without_images": 1,
        "images": 1,
        "image_files": 1,
        "films": 0,
        "film_files": 0,
        "film_durations": None,
        "kinds": {"conversation": 2, "pair": 0, "answer": 0},
        "pairs": None,
        "characters": 14,
        "image_sizes": [[50, 40]] * 3,
    }


def test_examples_in_json_are_all_or_as_many_as_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = [{**BAD, "id": number} for number in range(7)]
    for options, number in (((), 7), (("--examples", "2"), 2), (("--examples", "0"), 0)):
        (group,) = check_json(tmp_path, capsys, records, *options)["problems"]["codes"]
        assert (group["count"], len(group["examples"])) == (7, number)


def test_a_model_counts_tokens_and_names_what_does_not_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_picture(tmp_path / "wide.png", 150, 80)
    save_picture(tmp_path / "small.png", 56, 56)
    records = [
        {"id": "text", "conversations": conversation("Why?", "So.")},
        {"id": "small", "image": "small.png", "conversations": conversation("Why?", "So.")},
        {"id": "sliced", "image": "wide.png", "conversations": conversation("Why?", "So.")},
        {"id": "long", "conversations": conversation("Why?", "So. " * 100)},
    ]
    whole = check_json(tmp_path, capsys, records, "--model", MODEL, "--batch-size", "3")
    assert whole["problems"]["count"] == 0
    model = whole["model"]
    assert (model["records"], model["steps_per_epoch"], model["too_long"], model["fewer_slices"]) == (4, 2, 0, 0)
    assert model["tokens"]["min"] <= model["tokens"]["median"] <= model["tokens"]["p95"] == model["tokens"]["max"]
    assert model["slices_per_image"]["min"] == 1 < model["slices_per_image"]["max"]
    assert 0.5 < model["trained_share"] < 0.9, "the long answer is most of it"

    assert model["packed"] == {
        "pack_length": 2048,
        "rows": 1,
        "fill": model["total_tokens"] / 2048,
        "steps_per_epoch": 1,
    }
    assert 0 < model["padding_in_batches_of_4"] < 1

    limit = str(model["slices_per_image"]["max"] * 4 + 26)
    code, out = check(tmp_path, capsys, records, "--model", MODEL, "--model-max-length", limit)
    assert code == 1
    assert "D201 Too long: 1\n" in out
    assert "record 3 (id 'long')" in out
    assert "too long     1 get fewer slices, 1 do not fit\n" in out
    assert re.search(r"\npacked       \d rows of up to \d\d tokens, [\d.]+% full\n", out)
    assert "\nnot packed   3 steps an epoch, of 1 record each\n" in out


def test_rows_and_steps_of_the_page_are_those_of_such_lengths() -> None:
    tokens = np.random.default_rng(0).integers(50, 2000, 3000, endpoint=True)
    given = {
        "name": "",
        "model_max_length": 2048,
        "tokens": None,
        "slices_per_image": None,
        "frames_per_film": None,
        "fewer_slices": 0,
        "fewer_frames": 0,
        "too_long": 0,
        "records": 3000,
        "batch_size": 8,
        "packed": dataclasses.asdict(plan_rows(tokens, 2048, 8)),
        "steps_per_epoch": 375,
        "padding_in_batches_of_4": padding_share(tokens, 4),
    }
    statistics = Survey([]).statistics()
    said = "\n".join(line for line in statistics_lines(statistics, given)).partition("packed")
    page = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    assert f"```text\n{said[1]}{said[2]}\n```" in page


def test_rows_hold_the_longest_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    limits = ("--model", MODEL, "--model-max-length", "512", "--pack-length")
    assert check_json(tmp_path, capsys, [GOOD], *limits, "512")["model"]["packed"]["pack_length"] == 512
    with pytest.raises(SystemExit) as ended:
        check(tmp_path, capsys, [GOOD], *limits, "511")
    assert ended.value.code == 2
    assert "--pack-length: found 511, expected at least the 512 tokens" in capsys.readouterr().err


def test_progress_of_images_and_tokens_is_seen_on_a_terminal_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, turned: dict[str, Any]
) -> None:
    path = write_data(tmp_path / "train.json", [turned, GOOD])
    main(["check", path, "--model", MODEL])
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    main(["check", path, "--model", MODEL])
    assert capsys.readouterr().err == "\r1 of 1 images\n\r2 of 2 records, counting tokens\n"


def test_version_of_the_model_decides_about_system_turns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = {"conversations": [{"role": "system", "content": "Be brief."}, *conversation("Why?", "So.")]}
    report = check_json(tmp_path, capsys, [record], "--model", str(FIXTURES / "v2"))
    assert [group["code"] for group in report["problems"]["codes"]] == ["D151"]


def test_images_are_left_alone_or_not_decoded_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoilt = bytearray(Path(save_picture(tmp_path / "a.jpg", 200, 200)).read_bytes())
    spoilt[len(spoilt) // 2 : len(spoilt) // 2 + 200] = b"\xff" * 200
    (tmp_path / "a.jpg").write_bytes(spoilt)
    record = {"image": "a.jpg", "conversations": conversation("Why?", "So.")}
    assert check(tmp_path, capsys, [record])[0] == 1
    assert check(tmp_path, capsys, [record], "--headers-only")[0] == 0
    report = check_json(tmp_path, capsys, [{**record, "image": "nowhere.png"}], "--no-images")
    assert (report["images_checked"], report["problems"]["count"]) == (False, 0)


def test_explain_prints_the_page_of_a_code(capsys: pytest.CaptureFixture[str]) -> None:
    for given in ("D141", "d141", "141", "[D141]"):
        assert main(["explain", given]) == 0
        out = capsys.readouterr().out
        assert out.startswith("D141: No such image file\n")
        assert "did you mean 'cat.png', which is in that folder?" in out


def test_explain_lists_all_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "D141  No such image file" in lines
    assert len(lines) > 40


def test_explain_names_the_nearest_code(capsys: pytest.CaptureFixture[str]) -> None:
    for given, near in (("D149", "D14"), ("E141", "D141"), ("D1411", "D141")):
        assert main(["explain", given]) == 2
        assert f"did you mean {near}" in capsys.readouterr().err
    for given in ("D999", "D\u00b2", "D1000", "nonsense"):
        assert main(["explain", given]) == 2
        said = capsys.readouterr().err
        assert "did you mean" not in said
        assert "`minicpmv explain` lists all codes" in said


def test_records_are_checked_for_what_is_to_be_learned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without an objective every kind is sound; with one, training's own rule."""
    pair, judged = GOOD | {"rejected": "No."}, GOOD | {"label": True}
    for record, sound in (
        (GOOD, [(), ("--objective", "sft")]),
        (pair, [(), ("--objective", "dpo")]),
        (judged, [(), ("--objective", "dpo", "--preference-loss", "apo_zero_unpaired")]),
    ):
        asked = [(), ("--objective", "sft"), ("--objective", "dpo")]
        for options in (*asked, ("--objective", "dpo", "--preference-loss", "apo_zero_unpaired")):
            code, out = check(tmp_path, capsys, [record], *options)
            assert code == (0 if options in sound else 1), (record, options, out)
            assert ("[D181]" in out or "D181" in out) is (code == 1)
    assert main(["check", str(tmp_path / "train.json"), "--preference-loss", "sigmoid"]) == 2
    assert "--preference-loss: found without --objective dpo" in capsys.readouterr().err


def test_file_of_settings_says_what_is_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = write_data(tmp_path / "train.json", [GOOD | {"rejected": "No."}])
    held_out = write_data(tmp_path / "val.json", [GOOD | {"id": "b"}])
    file = tmp_path / "run.yaml"
    text = f"model: {MODEL}\ndata: {train}:2\neval_data: {held_out}\noutput: o\nobjective: dpo\nmodel_max_length: 9\n"
    file.write_text(text, encoding="utf-8")
    assert main(["check", str(file), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["data"] == [train, held_out]
    assert {group["code"] for group in report["problems"]["codes"]} == {"D181", "D201"}
    assert main(["check", str(file), "--model-max-length", "64", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["model"]["model_max_length"] == 64
    assert [group["code"] for group in report["problems"]["codes"]] == ["D181"], "the record without a worse answer"
    file.write_text(text + "modell_max_length: 9\n", encoding="utf-8")
    assert main(["check", str(file)]) == 2
    assert "run.yaml:7 modell_max_length: found no such setting" in capsys.readouterr().err
