"""Parser of every command's options: one dialect, and errors with the four parts of all others.

Hyphens and underscores are the same, as in ``minicpmv train``. MODEL, DATA and the output may be named, too. What is
mistyped is answered with what was meant.
"""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
from typing import Any, NoReturn

from minicpmv.terminal.redaction import secrets_in
from minicpmv.terminal.streams import complain
from minicpmv.wording import hub_advice, suggest

__all__ = ["CommandParser"]

_NAMED = ("adapter", "data", "model", "output")
"""Positional arguments that may also be given as an option of the same name."""
_PLACES = ("ADAPTER", "DIR", "DIRECTORY", "FILE", "OTHER", "OUT", "PATH", "RUN")
"""Names, in the usage, of values that are a file or a folder."""
_OF_ONE = re.compile(r"argument (?P<name>\S+): (?P<fault>.*)", re.DOTALL)
_NOT_A_CHOICE = re.compile(r"invalid choice: (?P<found>'.*?'|\S+) \(choose from (?P<choices>.*)\)", re.DOTALL)
_NOT_A_KIND = re.compile(r"invalid (?P<kind>\w+) value: (?P<found>.*)", re.DOTALL)
_KINDS = {"int": "a whole number", "float": "a number"}


def _is_repeatable(action: argparse.Action) -> bool:
    """Return whether an option that is given twice loses nothing: it collects its values, or has none."""
    return action.nargs == 0 or isinstance(action, argparse._AppendAction)  # pyright: ignore[reportPrivateUsage]


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Wraps paragraphs to the terminal, and leaves indented lines as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines = text.splitlines()
        return "\n".join(
            line if line.startswith(" ") else textwrap.fill(line, width, break_on_hyphens=False) for line in lines
        )


class CommandParser(argparse.ArgumentParser):
    """argparse's parser for one command; no error shows a secret."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"formatter_class": _Formatter, "allow_abbrev": False} | settings)

    def parse_args(  # pyright: ignore[reportIncompatibleMethodOverride] # declared with overloads
        self, args: Any = None, namespace: Any = None
    ) -> Any:
        """Parse as argparse does, in our dialect."""
        return super().parse_args(*self._translate(args, namespace))

    def parse_known_args(  # pyright: ignore[reportIncompatibleMethodOverride] # declared with overloads
        self, args: Any = None, namespace: Any = None
    ) -> Any:
        """Parse as argparse does, in our dialect."""
        return super().parse_known_args(*self._translate(args, namespace))

    def parse_intermixed_args(  # pyright: ignore[reportIncompatibleMethodOverride] # declared with overloads
        self, args: Any = None, namespace: Any = None
    ) -> Any:
        """Parse as argparse does, in our dialect."""
        return super().parse_intermixed_args(*self._translate(args, namespace))

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        """Refuse an empty name, as a variable that is not set leaves it: it would be the current folder, or no file."""
        is_of_a_place = action.metavar in _PLACES or action.dest in _NAMED
        if is_of_a_place and not arg_string.strip() and arg_string != action.const:
            fix = "name one" if action.required else "name one, or leave it out"
            raise argparse.ArgumentError(action, f"found {arg_string!r}, expected a name\n  fix: {fix}")
        return super()._get_value(action, arg_string)  # pyright: ignore[reportAttributeAccessIssue]

    def error(self, message: str) -> NoReturn:
        """Override argparse: end with 2 and a message of our form instead of the usage, without secrets."""
        text = self._describe(message)
        listed = f"`{self.prog} --help` lists all"
        complain(f"error: {text}" if "\n  fix: " in text else f"error: {text}\n  fix: {listed}", known=self._secrets())
        sys.exit(2)

    def _print_message(self, message: str, file: Any = None) -> None:
        if message:  # argparse would hide that the output is full
            (file or sys.stderr).write(message)

    def _secrets(self) -> set[str]:
        return set(secrets_in(sys.argv[1:]))

    # ------------------------------------------------------------------------------------------------------- dialect

    def _refuse_again(self, name: str, action: argparse.Action) -> NoReturn:
        """Refuse an option whose first value would be dropped, for a second one."""
        if action.nargs in ("+", "*"):
            fix = f"name all behind one {name}"
        elif "," in str(action.metavar):
            fix = f"name all in one {name}, with commas between them"
        else:
            fix = "remove one of them"
        self.error(f"{name}: found it twice, expected it once\n  fix: {fix}")

    def _translate(self, args: Any, namespace: Any) -> tuple[list[str], argparse.Namespace]:
        """Spell options as they are declared, and take what is named instead of standing in its place."""
        words = list(sys.argv[1:] if args is None else args)
        namespace = namespace or argparse.Namespace()
        spelled = {option.replace("_", "-"): option for option in self._option_string_actions}
        kept: list[str] = []
        seen: set[str] = set()
        named: dict[str, argparse.Action] = {}
        """Places that were taken by their names already, by the name as typed."""
        while words:
            word = words.pop(0)
            if word == "--":
                return [*kept, word, *words], namespace
            name, equals, value = word.partition("=")
            plain = name.replace("_", "-")
            if plain in named:
                self._refuse_again(name, named[plain])
            option = self._option_string_actions.get(spelled.get(plain, name))
            if option is not None and not _is_repeatable(option):
                if option.dest in seen:
                    self._refuse_again(name, option)
                seen.add(option.dest)
            place = self._find_place(plain) if plain not in spelled else None
            if place is None:
                kept.append(f"{spelled.get(plain, name)}{equals}{value}" if word.startswith("--") else word)
                continue
            takes_several = place.nargs in ("+", "*")
            values = [value] if equals else []
            while not equals and words and not words[0].startswith("-") and (takes_several or not values):
                values.append(words.pop(0))
            if not values:
                self.error(f"argument {name}: expected {'at least one' if takes_several else 'one'} argument")
            self._actions.remove(place)
            named[plain] = place
            read = [self._read(place, each) for each in values]
            setattr(namespace, place.dest, read if takes_several else read[0])
        return kept, namespace

    def _find_place(self, option: str) -> argparse.Action | None:
        """Return what stands in its place if an option names it."""
        for action in self._actions:
            if not action.option_strings and action.dest in _NAMED and option == f"--{action.dest}":
                return action
        return None

    def _read(self, place: argparse.Action, value: str) -> Any:
        try:
            return self._get_value(place, value)
        except argparse.ArgumentError as error:
            self.error(str(error))

    # -------------------------------------------------------------------------------------------------------- errors

    def _describe(self, message: str) -> str:
        """Word argparse's message as what was found, what was expected, and a fix."""
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown != message:
            return self._describe_unknown(unknown.split(" ")[0])
        missing = message.removeprefix("the following arguments are required: ")
        if missing != message:
            several = {each.metavar for each in self._actions if each.nargs == "*"}  # none is enough of these
            missing = ", ".join(name for name in missing.split(", ") if name not in several)
            expected = "each of them" if "," in missing else "it"
            return f"command line: found no {missing}, expected {expected}\n  fix: add {missing.replace(',', '')}"
        about = _OF_ONE.fullmatch(message)
        return message if about is None else self._describe_value(about["name"], about["fault"])

    def _describe_value(self, name: str, fault: str) -> str:
        other = fault.removeprefix("not allowed with argument ")
        if other != fault:
            return f"{name} {other}: found both, expected one\n  fix: remove one of them"
        if fault.startswith("expected "):
            return f"{name}: found no value, {fault.replace('argument', 'value')}\n  fix: add it"
        spare = fault.removeprefix("ignored explicit argument ")
        if spare != fault:
            return f"{name}: found the value {spare}, expected none\n  fix: remove it"
        choice = _NOT_A_CHOICE.fullmatch(fault)
        if choice:
            choices = choice["choices"].replace("'", "").split(", ")
            advice = suggest(choice["found"].strip("'"), choices, otherwise="choose one of these")
            return f"{name}: found {choice['found']}, expected one of {', '.join(choices)}\n  fix: {advice}"
        kind = _NOT_A_KIND.fullmatch(fault)
        if kind:
            expected = _KINDS.get(kind["kind"], f"a {kind['kind']}")
            return f"{name}: found {kind['found']}, expected {expected}\n  fix: {self._describe_default(name)}"
        return f"{name}: {fault}" if "\n  fix: " in fault else f"{name}: {fault}\n  fix: {self._describe_default(name)}"

    def _describe_default(self, name: str) -> str:
        option = name.split("/")[-1]
        default = self.get_default(option.lstrip("-").replace("-", "_"))
        return f"`{self.prog} --help` explains it" if default is None else f"{option} {default}, which is the default"

    def _describe_unknown(self, word: str) -> str:
        name = word.partition("=")[0]
        listed = f"`{self.prog} --help` lists all"
        if not name.startswith("-"):
            found = f"command line: found {name!r}, expected no further word"
            named = [each.option_strings[-1] for each in self._actions if each.option_strings and each.dest in _NAMED]
            takes_words = any(not action.option_strings for action in self._actions)
            fix = "quote a text of several words" if takes_words or not named else f"{named[0]} {name}"
            return f"{found}\n  fix: {fix}; {listed}"
        known = [option for action in self._actions for option in action.option_strings]
        known += [f"--{action.dest}" for action in self._actions if action.dest in _NAMED]
        advice = hub_advice(name) or suggest(name, known, otherwise="remove it")
        return f"{name}: no such option of `{self.prog}`, expected one that exists\n  fix: {advice} ({listed})"
