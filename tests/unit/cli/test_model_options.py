"""Options that commands with a model share."""

from __future__ import annotations

import argparse

import pytest

from minicpmv.cli.main import main
from minicpmv.cli.model_options import add_model_options, add_sampling_options, answer_length, check_sampling
from minicpmv.errors import UsageError
from minicpmv.models.answering.limits import LIMITS


@pytest.mark.parametrize(
    ("typed", "length"),
    [([], 64), (["--thinking"], 2048), (["--max-new-tokens", "5"], 5), (["--thinking", "--max-new-tokens", "5"], 5)],
)
def test_answers_may_be_longer_where_thoughts_count(typed: list[str], length: int) -> None:
    parser = argparse.ArgumentParser()
    add_model_options(parser, max_new_tokens=64, with_thoughts=2048)
    assert answer_length(parser.parse_args(["model", *typed])) == length


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize("typed", ["0", "-8", "nan", "1e400", "many"])
def test_flag_takes_what_the_setting_of_python_takes(name: str, typed: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    add_model_options(parser, max_new_tokens=64, with_thoughts=2048)
    add_sampling_options(parser)
    flag = f"--{name.replace('_', '-')}"
    with pytest.raises(SystemExit):
        parser.parse_args(["model", "--sample", flag, typed])
    assert f"argument {flag}: found {typed!r}, expected {LIMITS[name].expected}" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["chat", "compare", "eval", "pairs", "predict", "show"])
def test_seed_of_every_command_is_a_number_that_can_draw(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([command, "a", "b", "--seed", "-1"])
    assert "error: --seed: found '-1', expected a whole number of at least 0" in capsys.readouterr().err


def test_flag_that_cannot_act_is_refused() -> None:
    parser = argparse.ArgumentParser()
    add_sampling_options(parser)
    with pytest.raises(UsageError, match=r"^--top-p: found without --sample, expected both"):
        check_sampling(parser.parse_args(["--top-p", "0.5"]))
