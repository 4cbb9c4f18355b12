"""How often the better answer is the longer one, and when that is worth a notice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from minicpmv.cli.main import main
from minicpmv.data.sources.pair_lengths import compare_lengths, judge_lengths
from minicpmv.data.sources.survey import Survey
from tests.tiny import FIXTURES, conversation, write_data


def write_pairs(folder: Path, longer: int, shorter: int, equal: int = 0) -> str:
    answers = [("so it is", "no")] * longer + [("so", "never")] * shorter + [("yes", "not")] * equal
    records: list[dict[str, Any]] = [
        {"conversations": conversation(f"Why {number}?", better), "rejected": worse}
        for number, (better, worse) in enumerate(answers)
    ]
    return write_data(folder / "pairs.json", records)


@pytest.mark.parametrize(
    ("longer", "shorter", "equal", "is_noticed"),
    [(15, 5, 0, True), (14, 6, 0, False), (6, 14, 0, False), (5, 15, 0, True), (19, 0, 9, False), (20, 0, 9, True)],
)
def test_a_share_beyond_the_bounds_is_noticed(
    tmp_path: Path, longer: int, shorter: int, equal: int, is_noticed: bool
) -> None:
    survey = Survey([write_pairs(tmp_path, longer, shorter, equal)])
    survey.read_texts()
    survey.judge_pairs()
    assert [finding.problem.code for finding in survey.findings] == ["D333"] * is_noticed
    pairs = survey.statistics().pairs
    assert pairs is not None
    assert (pairs.pairs, pairs.unequal, pairs.unit) == (longer + shorter + equal, longer + shorter, "characters")
    assert pairs.longer_share == longer / (longer + shorter)


def test_data_without_pairs_have_no_share() -> None:
    assert compare_lengths([], "tokens") is None
    equal = compare_lengths([(3, 3)] * 30, "tokens")
    assert equal is not None
    assert equal.longer_share is None
    assert judge_lengths(equal, ["pairs.json"]) is None


def test_the_command_prints_the_share_in_characters_or_in_the_tokens_of_a_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_pairs(tmp_path, 18, 2)
    assert main(["check", data]) == 0
    shown = capsys.readouterr().out
    assert "20; the better answer is longer in 90.0%, in characters" in shown
    assert "D333 Pairs that length tells apart: 1" in shown
    main(["check", data, "--model", str(FIXTURES / "v2_6"), "--json"])
    pairs = json.loads(capsys.readouterr().out)["statistics"]["pairs"]
    assert (pairs["pairs"], pairs["unit"]) == (20, "tokens")
