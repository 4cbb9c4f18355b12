from __future__ import annotations

import re
import shlex

import pytest

from minicpmv.training.flags.arguments import parse_arguments
from minicpmv.training.flags.catalogue import all_settings
from minicpmv.training.flags.fields import GROUPS
from minicpmv.training.flags.help_page import help_page


def test_each_flag_is_listed_once_under_the_heading_of_its_group() -> None:
    listed: list[tuple[str, str]] = []
    heading = ""
    for line in help_page().splitlines():
        if line.endswith(":") and line[:-1] in GROUPS:
            heading = line[:-1]
        elif flag := re.match(r"  --(\w+) ", line):
            listed.append((flag[1], heading))
    flags = [(name, group) for name, group in listed if group]
    assert len(flags) == len(set(flags)) == len(all_settings())
    assert dict(flags) == {name: setting.group for name, setting in all_settings().items()}


@pytest.mark.parametrize("width", [60, 80, 200])
def test_page_is_as_wide_as_the_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    page = help_page().partition("examples:")[0]
    text = [line for line in page.splitlines() if not line.startswith(("usage", "  --"))]
    assert max(map(len, text)) in range(width - 12, width + 1)


def test_usage_is_one_line() -> None:
    usage, empty, *_ = help_page().splitlines()
    assert usage.startswith("usage: minicpmv train ")
    assert empty == ""


def test_examples_are_read() -> None:
    examples = [line for line in help_page().splitlines() if line.startswith("  minicpmv train ")]
    assert len(examples) == 4
    for example in examples:
        words = shlex.split(example)[2:]
        parse_arguments(words if words[0].startswith("--") else ["--model", "m", "--data", "d", *words[1:]])
