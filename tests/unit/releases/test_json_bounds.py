"""What a field of a model file may hold: the first value out of bounds is named with its place."""

from __future__ import annotations

import pytest

from minicpmv.releases.json_bounds import FLAG, Digits, ListOf, Number, OneOf, Rule, Text, whole


@pytest.mark.parametrize(
    ("rule", "sound", "unsound"),
    [
        (whole(1, 9), [1, 9], [0, 10, 1.5, True, "3", None]),
        (Number(0, 1), [0, 0.5, 1], [-0.1, 1.1, float("nan"), float("inf"), False]),
        (Number(0, 1, is_above=True), [1e-9, 1], [0, 0.0]),
        (FLAG, [True, False], [1, 0, None, "true"]),
        (OneOf((None, "a")), [None, "a"], ["b", 0, ""]),
        (Text(3), ["", "abc"], ["abcd", None, 3]),
        (Digits(12), ["0", "12"], ["13", "-1", "x", "", "1" * 30, 3]),
    ],
)
def test_a_value_is_sound_within_its_bounds_and_of_its_kind_alone(
    rule: Rule, sound: list[object], unsound: list[object]
) -> None:
    assert [value for value in sound if rule.fault(value) is not None] == []
    assert [value for value in unsound if rule.fault(value) is None] == []
    place, found, expected = rule.fault(unsound[0]) or ("?", "?", "?")
    assert (place, found, expected) == ("", unsound[0], rule.expected)


def test_a_fault_in_a_list_is_named_with_its_position() -> None:
    place, found, expected = ListOf(whole(1, 9), 0, 5).fault([1, 2, 0]) or ("?", "?", "?")
    assert (place, found, expected) == ("[2]", 0, "a whole number from 1 to 9")
