"""One dialect over all commands, and errors that say what was found, what was expected and how to mend it."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import pytest

from minicpmv.cli.main import _COMMANDS, main
from minicpmv.cli.parser import _PLACES, CommandParser
from tests.tiny import FIXTURES, conversation, write_data

_WITH_PARSER = {name: module for name, module in _COMMANDS.items() if hasattr(module, "_build_parser")}
_THINGS = {"adapter", "data", "model", "output"}


def build(command: str) -> CommandParser:
    module: Any = _COMMANDS[command]
    return module._build_parser()


@pytest.mark.parametrize("command", _WITH_PARSER)
def test_hyphen_and_underscore_are_the_same(command: str) -> None:
    parser = build(command)
    options = [option for option in parser._option_string_actions if "-" in option.lstrip("-")]
    for option in options:
        spelled = f"--{option[2:].replace('-', '_')}"
        assert parser._translate([spelled], None)[0] == [option]
        assert parser._translate([f"{spelled}=3"], None)[0] == [f"{option}=3"]


@pytest.mark.parametrize("command", _WITH_PARSER)
def test_word_that_may_be_left_out_is_not_asked_for(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = build(command)
    with pytest.raises(SystemExit):
        parser.error(f"the following arguments are required: {_names_of(parser)}")
    said = capsys.readouterr().err
    assert not [each.metavar for each in parser._actions if each.nargs == "*" and f" {each.metavar}" in said]


def _names_of(parser: CommandParser) -> str:
    return ", ".join(["SOMETHING", *(str(each.metavar) for each in parser._actions if not each.option_strings)])


def test_estimate_asks_for_a_model_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["estimate"])
    assert capsys.readouterr().err == "error: command line: found no MODEL, expected it\n  fix: add MODEL\n"


@pytest.mark.parametrize("command", _WITH_PARSER)
def test_what_stands_in_its_place_may_be_named(command: str) -> None:
    parser = build(command)
    places = [action for action in parser._actions if not action.option_strings and action.dest in _THINGS]
    for place in places:
        words, namespace = parser._translate([f"--{place.dest}", "here"], None)
        assert words == []
        assert getattr(namespace, place.dest) in ("here", ["here"])


@pytest.mark.parametrize(
    ("command", "given", "expected"),
    [
        ("predict", "--data d m --output o", {"model": "m", "data": "d"}),
        ("predict", "m --output o --data=d", {"model": "m", "data": "d"}),
        ("check", "--data a b --batch_size 3", {"data": ["a", "b"], "batch_size": 3}),
        ("chat", "--model m hello", {"model": "m", "question": "hello"}),
        ("merge", "--output o --adapter a", {"adapter": "a", "output": "o"}),
        ("eval", "--model m --data d --max_new_tokens 5", {"model": "m", "data": "d", "max_new_tokens": 5}),
    ],
)
def test_named_and_unnamed_words_go_to_their_places(command: str, given: str, expected: dict[str, Any]) -> None:
    options = vars(build(command).parse_intermixed_args(given.split()))
    assert {name: options[name] for name in expected} == expected


def test_flags_of_training_pass_estimate_as_they_are() -> None:
    options, flags = build("estimate").parse_known_args(
        ["--model", "m", "--data", "a", "b", "--use_lora", "true", "--lora-r", "8"]
    )
    assert (options.model, options.data) == ("m", ["a", "b"])
    assert flags == ["--use_lora", "true", "--lora-r", "8"]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            "trian",
            r"error: COMMAND: found 'trian', expected one of .*\n  fix: did you mean train\?",
        ),
        ("chat --images x", r"error: --images: no such option of `minicpmv chat`, .*\n  fix: did you mean --image.*"),
        ("check --dota x", r"error: --dota: no such option of `minicpmv check`, .*\n  fix: did you mean --data\?.*"),
        ("chat", r"error: command line: found no MODEL, expected it\n  fix: add MODEL"),
        ("check a --examples", r"error: --examples: found no value, expected one value\n  fix: add it"),
        ("check --data", r"error: --data: found no value, expected at least one value\n  fix: add it"),
        ("check a --json=3", r"error: --json: found the value '3', expected none\n  fix: remove it"),
        (
            "eval m d --turns lats",
            r"error: --turns: found 'lats', expected one of last, all\n  fix: did you mean last\?",
        ),
        ("eval m d --turns kto", r"error: --turns: found 'kto', expected one of last, all\n  fix: choose one of these"),
        (
            "check d --hub modelscope",
            r"error: --hub: no such option .*\n  fix: write the hub before a model's name: .*",
        ),
        (
            "serve m --port x",
            r"error: --port: found 'x', expected a whole number\n  fix: --port 8000, which is the default",
        ),
        ("demo here", r"error: command line: found 'here', expected no further word\n  fix: --output here; .*"),
        ("chat m What is", r"error: command line: found 'is', expected no further word\n  fix: quote a text.*"),
        (
            "show d --model m --record 1 --sample 2",
            r"error: --sample --record: found both, .*\n  fix: remove one of them",
        ),
        ("eval m d --max_new", r"error: --max_new: no such option .*\n  fix: .*"),
        (
            "eval m d --metrics anls --metrics=cer",
            r"error: --metrics: found it twice, expected it once\n  fix: name all in one --metrics, with commas .*",
        ),
        (
            "check --data a.json --data b.json",
            r"error: --data: found it twice, expected it once\n  fix: name all behind one --data",
        ),
        (
            "chat --model m --model n",
            r"error: --model: found it twice, expected it once\n  fix: remove one of them",
        ),
        (
            "serve m --max_new_tokens 3 --max-new-tokens 4",
            r"error: --max-new-tokens: found it twice, expected it once\n  fix: remove one of them",
        ),
    ],
)
def test_fault_is_told_in_two_lines(given: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(given.split())
    assert re.fullmatch(f"{told}\n", capsys.readouterr().err)


_COLLECTING = ("--adapter", "--gpu", "--image", "--judge-question", "--leave-out", "--record", "--video")


@pytest.mark.parametrize("command", _WITH_PARSER)
def test_only_an_option_that_loses_no_value_may_be_repeated(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    for option in dict(build(command)._option_string_actions):
        parser = build(command)
        action = parser._option_string_actions[option]
        given = [option] if action.nargs == 0 else [option, "3"]
        if action.nargs == 0 or option in _COLLECTING:
            assert parser._translate([*given, *given], None)[0] == [*given, *given]
        else:
            with pytest.raises(SystemExit, match="2"):
                parser._translate([*given, *given], None)
            assert capsys.readouterr().err.startswith(f"error: {option}: found it twice, expected it once\n  fix: ")


def test_words_that_are_no_options_may_be_repeated() -> None:
    options = build("chat").parse_intermixed_args(["m", "--", "--device"])
    assert options.question == "--device"


@pytest.mark.parametrize("width", [50, 200])
def test_help_is_as_wide_as_the_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    page = build("check").format_help().partition("examples:")[0]
    assert max(map(len, page.splitlines())) in range(width - 20, width + 1)


def test_fixes_that_check_prints_name_its_own_flags(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_data(tmp_path / "long.json", [{"conversations": conversation("Why? " * 40, "So. " * 40)}])
    assert main(["check", data, "--model", str(FIXTURES / "v2_6"), "--model_max_length", "20"]) == 1
    named = set(re.findall(r"--\w[\w-]*", "".join(re.findall(r"fix: .*", capsys.readouterr().out))))
    assert named
    parser = build("check")
    for flag in named:
        assert parser._translate([flag], None)[0][0] in parser._option_string_actions


_OF_PLACES = [
    (command, action.option_strings[-1] if action.option_strings else action.dest)
    for command in _WITH_PARSER
    for action in build(command)._actions
    if action.const != "" and action.nargs != 0 and (action.metavar in _PLACES or action.dest in _THINGS)
]


@pytest.mark.parametrize(("command", "name"), _OF_PLACES)
def test_an_empty_name_is_refused(command: str, name: str) -> None:
    """A variable of a shell that is not set leaves one: it would be the current folder, or a file of no name."""
    parser = build(command)
    actions = {(each.option_strings or [each.dest])[-1]: each for each in parser._actions}
    with pytest.raises(argparse.ArgumentError, match=r"found '', expected a name\n  fix: name one"):
        parser._get_value(actions[name], "")


def test_an_empty_output_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["demo", "--output", ""])
    assert ended.value.code == 2
    assert "--output: found '', expected a name" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
