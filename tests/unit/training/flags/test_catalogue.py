"""Our settings and the installed transformers' are listed whole, without importing transformers."""

from __future__ import annotations

from dataclasses import fields
from typing import get_args

import pytest
from transformers import HfArgumentParser, TrainingArguments

from minicpmv.training.flags import catalogue
from minicpmv.training.flags.catalogue import OTHER_NAMES, all_settings, our_settings
from minicpmv.training.flags.declared.recipe import RECIPE_NAMES
from minicpmv.training.flags.fields import GROUPS, Resume, read_kind


def test_every_field_of_the_installed_transformers_has_a_resume_class() -> None:
    """Whoever sees this fail: does another value change a number of training? Then it is ``same``."""
    assert {item.name for item in fields(TrainingArguments) if item.init} - catalogue._TRANSFORMERS.keys() == set()


def test_every_setting_of_ours_has_help_a_group_and_a_resume_class() -> None:
    settings = our_settings()
    assert [name for name, setting in settings.items() if not setting.help] == []
    assert [name for name, setting in settings.items() if setting.group not in GROUPS] == []
    assert [name for name, setting in settings.items() if setting.resume not in get_args(Resume)] == []


def test_field_of_a_later_transformers_counts_when_resuming(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(catalogue, "_TRANSFORMERS")
    monkeypatch.setattr(catalogue, "_TRANSFORMERS", {}, raising=False)
    assert {setting.resume for setting in catalogue._read_transformers().values()} == {"same"}


def test_choices_and_what_is_refused_later_are_those_that_transformers_offers() -> None:
    offered = {
        action.dest: set(action.choices)
        for action in HfArgumentParser(TrainingArguments)._actions  # pyright: ignore[reportArgumentType]
        if action.choices is not None
    }
    kinds = {name: setting.kind for name, setting in all_settings().items() if name in offered}
    assert {name: {*kind.choices, *kind.refused} for name, kind in kinds.items()} == offered
    assert [name for name, kind in kinds.items() if kind.refused] == ["optim"]
    assert not {*kinds["optim"].choices} & {*kinds["optim"].refused}


def test_recipe_has_no_part_in_what_every_run_has() -> None:
    of_every_run = {name for name, row in catalogue._TRANSFORMERS.items() if row.default is not None}
    assert not of_every_run & RECIPE_NAMES
    assert all_settings().keys() >= RECIPE_NAMES


def test_short_names_hide_no_flag() -> None:
    assert OTHER_NAMES.keys() & all_settings().keys() == set()
    assert set(OTHER_NAMES.values()) <= all_settings().keys()


@pytest.mark.parametrize(
    ("annotation", "of", "is_list"),
    [
        ("Optional[bool]", "truth", False),
        ("Union[dict, str, None]", "text", False),
        ("dict[str, bool] | None", "object", False),
        ("None | str | list[str]", "text", False),
        ("list[str] | None", "text", True),
        ("str | bool", "truth or word", False),
        ("float", "number", False),
    ],
)
def test_type_is_read_in_every_notation(annotation: str, of: str, is_list: bool) -> None:
    kind = read_kind(annotation, {})
    assert (kind.of, kind.is_list) == (of, is_list)
