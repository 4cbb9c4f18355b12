"""Lists the runs of the guides: how much data, which settings, and how many negatives.

What varies is one thing at a time. Runs that several tables show are made once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.guides.cards import negatives, write_cards
from benchmarks.guides.digits import ALL_DIGITS, write_digits
from benchmarks.guides.runs import Case
from minicpmv.demo.data import write_split

__all__ = ["AMOUNTS", "CARDS", "CARD_EPOCHS", "SHARES", "SOURCES", "all_cases"]

AMOUNTS = (75, 150, 299, 598, ALL_DIGITS)
"""1/16, 1/8, 1/4, 1/2 and all of the digits that the demo trains on."""
EPOCHS = 4
STEPS = EPOCHS * -(-ALL_DIGITS // 16)
"""As many as all digits take."""
_QUARTER = AMOUNTS[2]

CARDS, HELDOUT_CARDS = 400, 240
SHARES = (0.0, 0.02, 0.05, 0.15, 0.30)
CARD_EPOCHS = (4, 12)
_CARD_METRICS = "exact_match,json_valid,json_field_accuracy,json_invented,json_missed"

_LORA: dict[str, str | int | float] = {"use_lora": "true", "learning_rate": 1e-3}
_ALONE = {"lora_preset": "adapters_only"}
_FULL: dict[str, str | int | float] = {"learning_rate": 1e-3}

_OUTLINES = (
    ("negatives", "15% negatives, 12 epochs"),
    ("rates", "LoRA, official, 1e-06"),
    ("rates", "LoRA, official, 0.0001"),
    ("negatives", "5% negatives, 12 epochs"),
    ("records", f"{AMOUNTS[0]}, equal steps"),
    ("rates", "LoRA alone, 0.001"),
    ("rates", "full, 0.001"),
    ("negatives", "0% negatives, 12 epochs"),
    ("negatives", "30% negatives, 12 epochs"),
    ("rates", "LoRA alone, 0.01"),
    ("rates", "full, 1e-05"),
    ("records", f"{AMOUNTS[2]}, equal steps"),
    *(("records", f"{number}, equal epochs") for number in AMOUNTS),
)
"""Rows of the tables from which most is learnt; the rest comes behind them."""

SOURCES: Mapping[str, Callable[[Path], Path]] = {
    "heldout digits": partial(write_split, split="heldout"),
    **{f"{number} digits": partial(write_digits, number=number) for number in AMOUNTS},
    "heldout cards": partial(write_cards, split="heldout", are_negative=negatives(HELDOUT_CARDS, 0.5)),
    **{
        f"cards, {share:.0%} negatives": partial(write_cards, split="train", are_negative=negatives(CARDS, share))
        for share in SHARES
    },
}
"""What writes each file of records, by the name that cases use."""


def _digits(table: str, row: str, number: int, **flags: Any) -> Case:
    length = {} if "max_steps" in flags or "num_train_epochs" in flags else {"num_train_epochs": EPOCHS}
    return Case(table=table, row=row, data=f"{number} digits", heldout="heldout digits", flags={**flags, **length})


def _amounts() -> Iterator[Case]:
    for number in AMOUNTS:
        yield _digits("records", f"{number}, equal epochs", number, **_LORA)
    for number in AMOUNTS[:-1]:
        yield _digits("records", f"{number}, equal steps", number, **_LORA, max_steps=STEPS)


def _settings() -> Iterator[Case]:
    for way, common, rates in (
        ("LoRA, official", _LORA, (1e-6, 1e-5, 1e-4, 1e-3, 3e-3)),
        ("LoRA alone", {**_LORA, **_ALONE}, (1e-6, 1e-5, 1e-4, 1e-3, 3e-3, 1e-2)),
        ("full", _FULL, (1e-6, 1e-5, 1e-4, 1e-3, 3e-3)),
    ):
        for rate in rates:
            yield _digits("rates", f"{way}, {rate:g}", _QUARTER, **{**common, "learning_rate": rate})
    yield _digits("parts", "tower frozen", _QUARTER, **_LORA, tune_vision="false")
    yield _digits("parts", "tower and resampler frozen", _QUARTER, **_LORA, tune_vision="false", tune_resampler="false")
    for epochs in (1, 2, 8):
        yield _digits("epochs", f"{epochs}", _QUARTER, **_LORA, num_train_epochs=epochs)
    best = {**_LORA, **_ALONE, "learning_rate": 3e-3}
    yield _digits("rank", "8", _QUARTER, **best, lora_r=8, lora_alpha=8)
    yield _digits("rank", "64", _QUARTER, **best)
    yield _digits("rank", "8, all-linear", _QUARTER, **best, lora_r=8, lora_alpha=8, lora_target_modules="all-linear")
    yield _digits("rank", "64, all-linear", _QUARTER, **best, lora_target_modules="all-linear")


def _negatives() -> Iterator[Case]:
    for share in SHARES:
        for epochs in CARD_EPOCHS:
            # In full: the base has never written JSON, and its head has to learn it.
            flags = {**_FULL, "num_train_epochs": epochs}
            data, row = f"cards, {share:.0%} negatives", f"{share:.0%} negatives, {epochs} epochs"
            yield Case(
                table="negatives", row=row, data=data, heldout="heldout cards", flags=flags, metrics=_CARD_METRICS
            )


def all_cases() -> list[Case]:
    """Return all runs, so ordered that the outlines of every table are there first."""
    rank = {row: place for place, row in enumerate(_OUTLINES)}
    cases = [*_negatives(), *_settings(), *_amounts()]
    return sorted(cases, key=lambda case: rank.get((case.table, case.row), len(rank)))
