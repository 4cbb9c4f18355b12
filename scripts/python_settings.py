"""Writes the types of the settings of ``minicpmv.train`` from their declarations.

    python scripts/python_settings.py

An editor completes and explains settings from ``src/minicpmv/api/settings.py``, which no program can compute for it; a
test compares that file with what this script makes. What transformers says of its own fields is not repeated there.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path

from minicpmv.training.flags.catalogue import OTHER_NAMES, all_settings, is_explained_here
from minicpmv.training.flags.fields import GROUPS, Setting

FILE = Path(__file__).parent.parent / "src/minicpmv/api/settings.py"
_HEAD = '''"""States the settings that ``minicpmv.train`` takes, for editors and type checkers.

It is made by ``scripts/python_settings.py``. Our own settings are explained here, those of transformers in its
``TrainingArguments``; ``minicpmv train --help`` explains all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

__all__ = ["Settings"]


class Settings(TypedDict, total=False):
    """Flags of ``minicpmv train``. One that is left out, or None, has its default."""
'''
_ARGUMENTS = (*OTHER_NAMES.values(), "local_rank")
"""Arguments of their own, and what a launcher says."""
_TYPES = {"truth": "bool", "truth or word": "bool | str", "whole number": "int", "number": "float", "text": "str"}
_OBJECTS = ("_config", "_kwargs", "deepspeed")


def write_settings() -> str:
    """Return the file."""
    parts = [_HEAD]
    for group in GROUPS[:-1]:  # but for those of transformers that are fixed, refused or without effect
        parts.append(f"\n    # {group}")
        parts += [
            _entry(each) for each in all_settings().values() if each.group == group and each.name not in _ARGUMENTS
        ]
    return "\n".join(parts)


def _entry(setting: Setting) -> str:
    return f"    {setting.name}: {_type(setting)}\n{_docstring(setting)}"


def _type(setting: Setting) -> str:
    kind = setting.kind
    written = _TYPES.get(kind.of, "Mapping[str, Any]")
    if kind.choices:
        written = f"Literal[{', '.join(map(repr, kind.choices))}]".replace("'", '"')
        written = f"bool | {written}" if kind.of == "truth or word" else written
    if setting.bare:
        written = f"bool | {written}"
    if kind.is_list:
        return f"Sequence[{written}]"
    return f"{written} | Mapping[str, Any]" if setting.name.endswith(_OBJECTS) and written == "str" else written


def _docstring(setting: Setting) -> str:
    if is_explained_here(setting.name):
        text = setting.help
    else:
        text = f"As ``TrainingArguments.{setting.name}`` of transformers."
    text = " ".join(text.split())
    default = setting.default_in_words
    if not default and setting.default not in (None, "", ()):
        default = str(setting.default)
    if default and "Default: " not in text:
        text += f" Default: {default}."
    quotes = 'r"""' if "\\" in text else '"""'
    return "\n".join(_wrapped(f'{quotes}{text}"""'))


def _wrapped(text: str) -> Iterator[str]:
    yield from textwrap.wrap(
        text, 120, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False, break_long_words=False
    )


if __name__ == "__main__":
    FILE.write_text(write_settings() + "\n", encoding="utf-8")
