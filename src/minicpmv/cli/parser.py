"""Parser of every command's options: one that is mistyped is named, with the one that was meant."""

from __future__ import annotations

import argparse
import difflib
import sys
from typing import Any, NoReturn

from minicpmv.terminal.redaction import secrets_in
from minicpmv.terminal.streams import complain

__all__ = ["CommandParser"]

_UNKNOWN = "unrecognized arguments: "


class CommandParser(argparse.ArgumentParser):
    """argparse's parser, whose errors have the four parts of all others, and show no secret."""

    def _print_message(self, message: str, file: Any = None) -> None:
        if message:  # argparse would swallow that the output is full
            (file or sys.stderr).write(message)

    def error(self, message: str) -> NoReturn:
        """Override argparse: name the option that was probably meant, hide secrets, and exit with 2."""
        if message.startswith(_UNKNOWN):
            text = self._describe_unknown(message.removeprefix(_UNKNOWN).split(" ")[0])
        else:
            text = f"{self.format_usage()}{self.prog}: error: {message}"
        complain(text, known=secrets_in(sys.argv[1:]))
        sys.exit(2)

    def _describe_unknown(self, word: str) -> str:
        name = word.partition("=")[0]
        listed = f"`{self.prog} --help` lists all"
        if not name.startswith("-"):
            return f"error: found {name!r}, which is one word too many\n  fix: quote a text of several words; {listed}"
        known = [option for action in self._actions for option in action.option_strings]
        near = difflib.get_close_matches(name.replace("_", "-"), known, n=1, cutoff=0.6)
        advice = f"did you mean {near[0]}? ({listed})" if near else f"remove it ({listed})"
        return f"error: {name}: no such option of `{self.prog}`\n  fix: {advice}"
