"""Writes the reference from the code: commands, flags, metrics and Python names. Nothing of it is edited by hand."""

from __future__ import annotations

import ast
import contextlib
import io
import os
import re
from collections.abc import Iterator
from importlib import import_module
from typing import is_typeddict
from unittest import mock

import minicpmv
from minicpmv.cli import main as command_line
from minicpmv.evaluation.metrics.registry import describe_metrics
from minicpmv.training.flags.catalogue import OTHER_NAMES, all_settings
from minicpmv.training.flags.fields import GROUPS
from minicpmv.training.flags.help_page import describe, placeholder
from website.navigation import SECTIONS
from website.staging import ROOT

__all__ = ["command_names", "documented_names", "help_of", "reference_pages"]

_WIDTH = "100"
"""Columns of the pages of ``--help``."""
_GENERATED = "This page is written from the code."
_LISTED = re.compile(r"^  (\w+) {2,}\S", re.MULTILINE)
_PYTHON = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def reference_pages() -> dict[str, str]:
    """Return the text of every generated page by its name."""
    return {
        "commands.md": "\n\n".join(_commands()),
        "training_flags.md": "\n\n".join(_training_flags()),
        "metrics.md": "\n\n".join(_metrics()),
        "python_names.md": "\n\n".join(_python_names()),
    }


def help_of(*command: str) -> str:
    """Return what ``minicpmv COMMAND --help`` prints."""
    printed = io.StringIO()
    with (
        mock.patch.dict(os.environ, COLUMNS=_WIDTH),
        contextlib.redirect_stdout(printed),
        contextlib.suppress(SystemExit),
    ):
        command_line.main([*command, "--help"])
    return printed.getvalue()


def command_names() -> list[str]:
    """Return the names of all commands, in the order of ``minicpmv --help``."""
    listing = help_of().partition("\ncommands:\n")[2].partition("\n\n")[0]
    return _LISTED.findall(listing)


def _commands() -> Iterator[str]:
    yield "# Commands"
    yield f"{_GENERATED} The flags of `minicpmv train` have [a page of their own](training_flags.md)."
    yield f"```text\n{help_of().rstrip()}\n```"
    for name in command_names():
        yield f"## {name}"
        if name == "train":
            usage = help_of(name).partition("\n\n")[0]
            yield f"```text\n{usage}\n```"
            yield "See [all flags of training](training_flags.md)."
        else:
            yield f"```text\n{help_of(name).rstrip()}\n```"


def _training_flags() -> Iterator[str]:
    yield "# Flags of training"
    short = ", ".join(f"`--{short}` for `--{name}`" for short, name in OTHER_NAMES.items())
    yield (
        f"{_GENERATED} `minicpmv train --help` prints the same. "
        "[Training](../guides/training.md) explains how they work together."
    )
    yield f"Hyphens and underscores are the same; a switch without a value is true. Short names: {short}."
    for group in GROUPS:
        settings = [setting for setting in all_settings().values() if setting.group == group]
        yield f"## {group}"
        for setting in settings:
            yield f"[`--{setting.name} {placeholder(setting)}`]{{#{setting.name}}}\n: {_plain(describe(setting))}"


def _metrics() -> Iterator[str]:
    yield "# Metrics"
    yield f"{_GENERATED} [Evaluation](../guides/evaluation.md) says how each is computed."
    yield "| name | measures |\n|---|---|\n" + "\n".join(
        f"| `{name}` | {_plain(text)} |" for name, text in describe_metrics()
    )


def _plain(text: str) -> str:
    """Escape what Markdown would read as something else; text between backticks stays."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(
        part if place % 2 else re.sub(r"([\\*_<>\[\]|$])", r"\\\1", part) for place, part in enumerate(parts)
    )


def documented_names() -> dict[str, list[str]]:
    """Return the names that the pages' Python examples import from modules of the package, by module."""
    found: dict[str, set[str]] = {}
    for page in (page for section in SECTIONS for page in section.pages if not page.is_generated):
        for block in _PYTHON.findall((ROOT / page.source).read_text(encoding="utf-8")):
            for node in ast.walk(ast.parse(block)):
                if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("minicpmv."):
                    found.setdefault(node.module, set()).update(alias.name for alias in node.names)
    return {module: sorted(names) for module, names in sorted(found.items())}


def _python_names() -> Iterator[str]:
    yield "# Python names"
    yield (
        f"{_GENERATED} Names that stay: those of `minicpmv` itself, and those that the other pages' examples import. "
        "Everything else may change without notice."
    )
    for name in sorted(minicpmv.__all__):
        if not name.startswith("_"):
            yield f"## minicpmv.{name}"
            yield _documented("minicpmv", name)
    for module, names in documented_names().items():
        yield f"## {module}"
        for name in names:
            yield _documented(module, name)


def _documented(module: str, name: str) -> str:
    """Return the directive that writes one name from its docstring."""
    value = getattr(import_module(module), name)
    is_class = isinstance(value, type)
    directive = f".. auto{'class' if is_class else 'function'}:: {module}.{name}"
    options = ["   :members:"] if is_class and not is_typeddict(value) else []
    block = "\n".join(["```{eval-rst}", directive, *options, "```"])
    if is_typeddict(value):  # minicpmv.Settings
        return f"{block}\n\nThe keys are [the flags of training](training_flags.md), without `--`."
    return block
