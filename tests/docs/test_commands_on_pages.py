"""Every command that a page shows is one: its command, options and flags exist and fit together.

Whether it does what the page says is shown elsewhere, by the tests of the command. Nothing is run here.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from minicpmv.cli import main as command_line
from minicpmv.cli.parser import CommandParser
from minicpmv.errors import UsageError
from minicpmv.releases import directories
from minicpmv.training.flags.arguments import parse_arguments
from tests.docs.repository import DOCUMENTS, ROOT, code_blocks

_REQUIRED = ["--model_name_or_path", "M", "--data_path", "D", "--output_dir", "O"]
_OF_SCRIPTS = {
    "finetune_lora.sh": ["--use_lora", "true"],
    "finetune_ds.sh": [],
    "finetune_dpo.sh": ["--objective", "dpo", "--use_lora", "true"],
}
_INLINE = re.compile(r"`(minicpmv \w[^`\n]*|sh \w+\.sh[^`\n]*)`")
_MISSING = re.compile(r"found no [-\w, ]+, expected (it|each of them|one value)|found '[A-Z]+', expected one of")
"""What is said of a command that a sentence names without its arguments, or with words such as TASK in their place."""
_ASSIGNMENT = re.compile(r"[A-Z_]+=\S*")


class _Parsed(Exception):
    """A command has read its command line, and would begin."""


def _commands(document: Path) -> Iterator[tuple[list[str], bool]]:
    """Yield the words of each of our commands, and whether it stands in a block and so is complete."""
    lines = [
        (line, True) for block in code_blocks(document, "shell") for line in block.replace("\\\n", " ").splitlines()
    ]
    lines += [(line, False) for line in _INLINE.findall(document.read_text(encoding="utf-8"))]
    for line, is_complete in lines:
        plain = line if is_complete else line.replace("[", "").replace("]", "")  # what may be left out
        words = [
            word for word in shlex.split(plain, comments=True) if word not in ("...", "FLAGS", "run.yaml", "FILE.yaml")
        ]
        while words and _ASSIGNMENT.fullmatch(words[0]):
            words = words[1:]
        if "[flags" in line:
            continue  # the form of a command, in words
        if words and (words[0] == "minicpmv" or (words[0] == "sh" and words[1].startswith("finetune_"))):
            yield words, is_complete


def _read(words: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Read a command line as the command does, up to where it would begin.

    Raises:
        _Parsed: It is right.
        SystemExit: It is wrong, or asks for help.
        MiniCPMVError: A flag of training is wrong.
    """
    if words[0] == "sh":
        parse_arguments([*_REQUIRED, *_OF_SCRIPTS[words[1]], *words[2:]])
        raise _Parsed
    if words[1:2] == ["train"]:
        given = [word for word in words[2:] if word not in ("--help", "-h")]
        names = {word.partition("=")[0] for word in given}
        short = {"--model": _REQUIRED[:2], "--data": _REQUIRED[2:4], "--output": _REQUIRED[4:]}
        missing = [word for name, pair in short.items() if not {name, pair[0]} & names for word in pair]
        parse_arguments([*missing, *given])
        raise _Parsed
    for name in ("parse_args", "parse_known_args", "parse_intermixed_args"):
        monkeypatch.setattr(CommandParser, name, _stopping(getattr(CommandParser, name)))
    monkeypatch.setattr(
        directories, "refuse_unreachable", lambda name, *, asked_by: None
    )  # the pages' models are not here
    command_line.main(words[1:])
    raise AssertionError("the command ended before it had read its command line")


def _stopping(method: Any) -> Any:
    """Return the parser's method with an end behind it, except for the one that only finds the command."""

    def parse(parser: CommandParser, args: Any = None, namespace: Any = None) -> Any:
        is_outermost = not hasattr(parser, "is_reading")  # argparse's methods call each other
        parser.is_reading = True  # pyright: ignore[reportAttributeAccessIssue]
        read = method(parser, args, namespace)
        if parser.prog == "minicpmv" or not is_outermost:
            return read
        if isinstance(read, tuple) and parser.prog == "minicpmv estimate":
            parse_arguments([*_REQUIRED, *read[1]])
        raise _Parsed

    return parse


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_on_the_page_are_read_without_an_error(
    document: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong: list[str] = []
    for words, is_complete in _commands(document):
        with monkeypatch.context() as patched:
            try:
                _read(words, patched)
            except _Parsed:
                continue
            except SystemExit as end:
                said = capsys.readouterr().err.strip()
                if end.code != 0 and (is_complete or not _MISSING.search(said)):
                    wrong.append(f"{shlex.join(words)}: {said}")
            except Exception as error:  # noqa: BLE001 # of any kind: the command is named
                wrong.append(f"{shlex.join(words)}: {error}")
    assert wrong == []


def test_a_wrong_command_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The parsers are the commands' own, and a page's mistakes end as a user's do."""
    for words in (
        ["minicpmv", "chat", "M", "--imagee", "x"],
        ["minicpmv", "evall", "M"],
        ["sh", "finetune_lora.sh", "--r"],
    ):
        with monkeypatch.context() as patched, pytest.raises((SystemExit, UsageError)):
            _read(words, patched)
