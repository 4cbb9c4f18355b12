"""Counts, sizes, durations, long lists, switch words and suggestions read the same wherever they are printed."""

from __future__ import annotations

import re

import pytest

from minicpmv.wording import (
    FALSE,
    TRUE,
    counted,
    format_bytes,
    format_seconds,
    is_off,
    is_on,
    list_few,
    name_few,
    nearest,
    suggest,
)
from tests.docs.repository import ROOT


@pytest.mark.parametrize(
    ("number", "things", "written"),
    [(0, "", "0 rows"), (1, "", "1 row"), (2, "", "2 rows"), (12_345, "", "12,345 rows"), (1, "oxen", "1 row")],
)
def test_only_one_thing_is_singular(number: int, things: str, written: str) -> None:
    assert counted(number, "row", things) == written


def test_an_irregular_plural_is_given() -> None:
    assert counted(3, "process", "processes") == "3 processes"


@pytest.mark.parametrize(
    ("number", "written"),
    [(1, "1 byte"), (1023, "1,023 bytes"), (1024, "1 KiB"), (2**20, "1.0 MiB"), (2**30, "1.00 GiB")],
)
def test_a_size_has_the_largest_unit_that_it_fills(number: int, written: str) -> None:
    assert format_bytes(number) == written


@pytest.mark.parametrize(
    ("seconds", "written"),
    [(0.171, "0.17 s"), (42.4, "42 s"), (150, "2 min"), (6000, "1 h 40 min"), (7_199, "2 h 00 min")],
)
def test_a_duration_is_read_at_a_glance(seconds: float, written: str) -> None:
    assert format_seconds(seconds) == written


def test_hidden_names_and_lines_are_counted() -> None:
    assert name_few(range(5), most=5) == "0, 1, 2, 3, 4"
    assert name_few(range(1_010), most=2) == "0, 1 and 1,008 more"
    assert list_few(["a", "b"], most=2) == "a\nb"
    assert list_few(["a", "b"], most=1, indent="  ") == "  a\n  ... and 1 more"


def test_a_switch_word_is_on_or_off_and_never_both() -> None:
    assert not set(TRUE) & set(FALSE)
    for word in TRUE:
        assert is_on(f" {word.upper()} ")
        assert not is_off(word)
    for word in (*FALSE, "", "None"):
        assert is_off(word)
        assert not is_on(word)
    assert not is_on("folder/of/true")
    assert not is_off("folder/of/false")


def test_the_nearest_name_is_found_across_hyphens_and_capitals() -> None:
    assert nearest("max-New_token", ["max_new_tokens", "min_new_tokens"]) == ["max_new_tokens"]
    assert suggest("lern_rate", ["learn_rate", "lean_rate"], otherwise="", prefix="--", most=2) == (
        "did you mean --learn_rate or --lean_rate?"
    )


_BY_HAND = {
    "wording.py",
    "data/checks/duplicate_ids.py",  # counts ids of which it keeps only the first
    "data/records/path_faults.py",  # suggests files near a path, by another measure
}
"""Modules that may still word it themselves."""


def test_no_other_module_words_a_plural_or_a_rest_by_hand() -> None:
    by_hand = re.compile(
        r"\w\((s|es)\)[ :;,\"]|'s' if |\"s\" if |'' if .* == 1 else|and \{.* - .*\} more|close_matches"
    )
    package = ROOT / "src/minicpmv"
    found = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if by_hand.search(path.read_text(encoding="utf-8"))
    }
    assert found == _BY_HAND
