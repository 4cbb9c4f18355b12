"""docs/memory.md: each line of what fits is what the estimate says today, and its flags are those of the recipe."""

from __future__ import annotations

import pytest

from benchmarks.cards import RECIPES, Recipe, estimate, table_line
from tests.docs.repository import ROOT

LINES = [line for line in (ROOT / "docs/memory.md").read_text(encoding="utf-8").splitlines() if " GB | " in line]


def test_every_recipe_has_its_line() -> None:
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in LINES]
    assert [(line[0], line[1], line[2], line[-1]) for line in cells] == [
        (recipe.release, recipe.trained, f"{recipe.card} GB", f"`{recipe.flags}`") for recipe in RECIPES
    ]


@pytest.mark.parametrize(
    "recipe",
    [
        pytest.param(recipe, id=f"{recipe.release}, {recipe.trained}", marks=[pytest.mark.slow] if number else [])
        for number, recipe in enumerate(RECIPES)
    ],
)
def test_a_line_is_what_the_estimate_says(recipe: Recipe) -> None:
    assert table_line(recipe, estimate(recipe)) in LINES
