"""Spells the settings in an error as Python does: ``use_lora=True`` where the command says ``--use_lora true``.

The errors are those of the commands, whose users write flags. What stands in backticks is a command, and stays one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from minicpmv.errors import DataError, MiniCPMVError
from minicpmv.training.flags.catalogue import OTHER_NAMES, all_settings
from minicpmv.training.flags.deepspeed.presets import PRESETS

__all__ = ["of_answering", "of_training", "spell"]

_VALUE = r"'[^'\n]*'|\"[^\"\n]*\"|-?\d+(?:\.\d+)?(?:e[+-]?\d+)?|[a-z][a-z0-9_-]*"
_QUOTED = r"(?<!\w)'[^'\n]*'(?!\w)"
_FLAG = re.compile(rf"{_QUOTED}|(?<![\w./-])--([a-z][a-z0-9_-]*[a-z0-9])(?:[ =]({_VALUE})(?![\w./]*\w))?")
"""A text in quotes, which is a user's own and stays; or a flag, and what may be its value: a text in quotes, a number,
or a word, if the flag takes it."""
_TRUTH = {"true": "True", "false": "False"}
_ARGUMENTS = {flag: argument for argument, flag in OTHER_NAMES.items()}
_OF_ANSWERING: Mapping[str, tuple[str, Iterable[str]]] = {
    **{name: (name, ()) for name in ("batch_size", "max_length", "max_new_tokens", "max_slice_nums")},
    **{name: (f"{name}=True", ()) for name in ("allow_other_base", "sample")},
    "device": ("device", ("cpu",)),
}
"""Settings of a loaded model that an error may name; the commands have some as bare flags."""


def spell(text: str, names: Mapping[str, tuple[str, Iterable[str]]]) -> str:
    """Return a text with the settings that it names as Python spells them.

    Args:
        text: Of an error.
        names: Of each flag, without dashes and with underscores, the name in Python and the words that it takes.

    >>> known = {"use_lora": ("use_lora", ("true", "false")), "data_path": ("data", ()), "lora_r": ("lora_r", ())}
    >>> spell("--lora_r 8: found without --use_lora true, expected both; see `minicpmv train --lora_r 8`", known)
    'lora_r=8: found without use_lora=True, expected both; see `minicpmv train --lora_r 8`'
    >>> spell("--data_path: found no file; --unknown 3 stays", known)
    'data: found no file; --unknown 3 stays'
    """

    def in_python(match: re.Match[str]) -> str:
        flag, value = (match[1] or "").replace("-", "_"), match[2]
        if flag not in names:
            return match[0]
        name, words = names[flag]
        if value is None:
            return name
        if value[0].isalpha() and value not in words:  # the next word of the sentence
            return name + match[0][match.end(1) - match.start() :]
        return f"{name}={_TRUTH.get(value) or (repr(value) if value[0].isalpha() else value)}"

    parts = text.split("`")
    parts[::2] = [_FLAG.sub(in_python, part) for part in parts[::2]]
    return "`".join(parts)


@contextmanager
def of_training() -> Iterator[None]:
    """Spell the settings of a run in the errors that are raised within, arguments of ``minicpmv.train`` included."""
    with _spelled({name: (_ARGUMENTS.get(name, name), _words_of(name)) for name in all_settings()}):
        yield


@contextmanager
def of_answering() -> Iterator[None]:
    """Spell the settings of a loaded model in the errors that are raised within."""
    with _spelled(_OF_ANSWERING):
        yield


def _words_of(name: str) -> tuple[str, ...]:
    return (*all_settings()[name].kind.choices, *_TRUTH, *(PRESETS if name == "deepspeed" else ()))


@contextmanager
def _spelled(names: Mapping[str, tuple[str, Iterable[str]]]) -> Iterator[None]:
    try:
        yield
    except MiniCPMVError as error:
        if isinstance(error, DataError) and error.problems:  # what was found is the user's own text
            error.problems = tuple(
                replace(one, expected=spell(one.expected, names), fix=spell(one.fix, names)) for one in error.problems
            )
            error.args = DataError(error.problems).args
        else:
            error.args = tuple(spell(each, names) if isinstance(each, str) else each for each in error.args)
        raise
