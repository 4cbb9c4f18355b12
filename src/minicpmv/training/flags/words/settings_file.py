"""Reads a YAML file of settings as the flags that say the same, for ``minicpmv train run.yaml``.

A value means what it would mean behind the flag of that name: the text is what counts, not what YAML makes of it, so
``1e-4`` is a number and ``no`` stays a word. Nothing but text, lists and mappings is ever made of a file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence, Set
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from minicpmv.errors import ConfigError
from minicpmv.training.flags.catalogue import OTHER_NAMES, all_settings
from minicpmv.training.flags.fields import Setting
from minicpmv.training.flags.words.legacy_flags import LEGACY_NAMES
from minicpmv.training.flags.words.values import Place, check_range, describe_expected, give_example, read_values
from minicpmv.wording import hub_advice, suggest

__all__ = ["is_settings_file", "with_settings_file"]

_ENDINGS = (".yaml", ".yml")
_OF_YAML = ("str", "int", "float", "bool", "null", "timestamp", "seq", "map")
_TAG = "tag:yaml.org,2002:"
_OBJECTS = ("_config", "_kwargs", "deepspeed")
"""Ends of the names of settings that may hold names and values."""


def with_settings_file(arguments: Sequence[str]) -> list[str]:
    """Return a command line with the settings of a file, if it begins with one, in the file's place.

    Flags come after the file, and of a flag that is given twice the last one counts, so they win.

    Args:
        arguments: ``run.yaml FLAGS``, or flags alone.

    Raises:
        ConfigError: The file cannot be read, or holds what is no setting, or no value of one.
    """
    if not arguments or not is_settings_file(arguments[0]):
        return list(arguments)
    flags = {word.partition("=")[0].removeprefix("--").replace("-", "_") for word in arguments[1:] if word[:2] == "--"}
    return [*_read(arguments[0], {OTHER_NAMES.get(flag, flag) for flag in flags}), *arguments[1:]]


def is_settings_file(word: str) -> bool:
    """Return whether a word of a command line is the name of such a file."""
    return word.lower().endswith(_ENDINGS) and not word.startswith("-")


def _read(path: str, flags: Set[str]) -> Iterator[str]:
    """Yield the flags that a file stands for, without the lists that flags behind it say anew."""
    first: dict[str, int] = {}
    for key, value in _entries(path):
        written = _key(key, path)
        name, setting = _find(written, _line(key, path))
        if name in first:
            raise _fault(
                f"{_line(key, path)} {written}",
                f"again what line {first[name]} says",
                "each setting once",
                "remove one of the two lines",
            )
        first[name] = key.start_mark.line + 1
        place = Place(f"{_line(value, path)} {written}", f"{written}: ")
        words = list(_words(name, setting, value, place))
        if not (setting is not None and setting.kind.is_list and name in flags):
            yield from words


def _entries(path: str) -> list[tuple[yaml.Node, yaml.Node]]:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "text that is not UTF-8"
        raise _fault(path, f"no readable file ({reason})", "a YAML file", "correct the path, or the file") from error
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = path if mark is None else f"{path}:{mark.line + 1}"
        said = getattr(error, "problem", None) or str(error).splitlines()[0]
        fix = "write one setting on each line, as NAME: VALUE; quote a text that holds ': ' or ' #'"
        raise _fault(where, f"text that is not YAML ({said})", "YAML", fix) from error
    except RecursionError as error:
        raise _fault(path, "values within each other without end", "one setting on each line", "simplify it") from error
    if root is None:
        raise _fault(path, "nothing", "settings", "write one on each line, as NAME: VALUE, or leave the file out")
    if not isinstance(root, yaml.MappingNode):
        raise _fault(_line(root, path), _describe(root), "settings", "write one on each line, as NAME: VALUE")
    return root.value


def _key(node: yaml.Node, path: str) -> str:
    if not isinstance(node, yaml.ScalarNode):
        raise _fault(_line(node, path), f"{_describe(node)} as a name", "the name of a setting", "write NAME: VALUE")
    return node.value


def _find(written: str, line: str) -> tuple[str, Setting | None]:
    """Return the name of a setting and its declaration; None for a name of the 2024 scripts, which have no more one."""
    name = written.replace("-", "_")
    name = OTHER_NAMES.get(name, name)
    setting = all_settings().get(name)
    if setting is None and name not in LEGACY_NAMES:
        known = [*all_settings(), *OTHER_NAMES]
        advice = hub_advice(written) or suggest(written, known, otherwise="remove the line")
        fix = f"{advice} (`minicpmv train --help` lists all)"
        raise _fault(f"{line} {written}", "no such setting", "one that exists", fix)
    return name, setting


def _words(name: str, setting: Setting | None, value: yaml.Node, place: Place) -> Iterator[str]:
    """Yield the flag with its value, or values."""
    values = _texts(name, setting, value, place)
    if setting is not None:
        read = read_values(setting, values, place)
        for each in read if isinstance(read, list) else [read]:
            check_range(each, setting.range, place, default=setting.default)
        if setting.kind.is_list:
            for text in values:
                if text.startswith("--"):
                    raise _fault(place.where, repr(text), "no value that begins like a flag", "rename it: ./--name")
            yield f"--{name}"
            yield from values
            return
    yield f"--{name}={values[0]}"


def _texts(name: str, setting: Setting | None, value: yaml.Node, place: Place) -> list[str]:
    """Return what would be typed behind the flag; a list for a text is that text with commas."""
    takes_list = setting is not None and (setting.kind.is_list or setting.kind.of == "text")
    if not isinstance(value, yaml.SequenceNode) or setting is None or not takes_list:
        return [_text(name, setting, value, place)]
    if not value.value:
        raise _fault(place.where, "an empty list", "at least one value", "add one, or remove the line")
    texts = [_text(name, setting, each, place) for each in value.value]
    return texts if setting.kind.is_list else [",".join(texts)]


def _text(name: str, setting: Setting | None, value: yaml.Node, place: Place) -> str:
    if _tag(value) not in _OF_YAML:
        raise _fault(place.where, f"the tag {value.tag!r}", "a plain value", "remove the tag")
    if isinstance(value, yaml.MappingNode) and name.endswith(_OBJECTS):
        return json.dumps(_plain(value, place))
    is_missing = _tag(value) == "null" and isinstance(value, yaml.ScalarNode) and value.style is None
    if isinstance(value, yaml.ScalarNode) and not is_missing:
        return value.value
    expected = "a text" if setting is None else describe_expected(setting)
    fix = f"{place.written}{'TEXT' if setting is None else give_example(setting)}"
    if is_missing:
        raise _fault(place.where, "no value", expected, f"{fix}, or remove the line for the default")
    raise _fault(place.where, _describe(value), expected, fix)


def _plain(node: yaml.Node, place: Place) -> Any:
    """Return a mapping within a value, as JSON has it; numbers and truth words are what YAML takes them for."""
    if isinstance(node, yaml.MappingNode):
        made: dict[str, Any] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.value in made:
                raise _fault(place.where, "a name twice, or no name", "each name once", "remove one of them")
            made[key.value] = _plain(value, place)
        return made
    if isinstance(node, yaml.SequenceNode):
        return [_plain(each, place) for each in node.value]
    if _tag(node) not in ("str", "int", "float", "bool", "null"):
        raise _fault(place.where, f"the tag {node.tag!r}", "plain values", "quote the text, or remove the tag")
    value: Any = yaml.SafeLoader("").construct_object(node)
    if isinstance(value, str) and isinstance(node, yaml.ScalarNode) and node.style is None:
        with suppress(ValueError):
            return float(value)  # YAML 1.1 takes 1e-4 for a text
    return value


def _tag(node: yaml.Node) -> str:
    return node.tag.removeprefix(_TAG)


def _line(node: yaml.Node, path: str) -> str:
    return f"{path}:{node.start_mark.line + 1}"


def _describe(node: yaml.Node) -> str:
    if isinstance(node, yaml.MappingNode):
        return "names and values"
    return "a list" if isinstance(node, yaml.SequenceNode) else f"the text {node.value[:60]!r}"


def _fault(where: str, found: str, expected: str, fix: str) -> ConfigError:
    return ConfigError(f"{where}: found {found}, expected {expected}\n  fix: {fix}")
