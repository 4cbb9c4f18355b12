"""Words that a run is started with, and what a ``KeyboardInterrupt`` says of one that could not say it itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from minicpmv.api import train
from minicpmv.errors import UsageError


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("eval_metrics", ["anls", "cer"], ["--eval_metrics=anls,cer"]),
        ("lora_target_modules", ("q_proj", "v_proj"), ["--lora_target_modules=q_proj,v_proj"]),
        ("lora_layers_to_transform", [0, 1], ["--lora_layers_to_transform", "0", "1"]),
        ("use_lora", True, ["--use_lora=true"]),
        ("deepspeed", {"zero_optimization": {"stage": 2}}, ['--deepspeed={"zero_optimization": {"stage": 2}}']),
        ("lora_r", None, []),
    ],
)
def test_setting_is_the_flag_of_the_command(name: str, value: Any, words: list[str]) -> None:
    assert list(train._words(name, value)) == words


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        (
            "learning_rate",
            [1e-4, 1e-5],
            r"learning_rate: found \[0.0001, 1e-05\], expected a number\n  fix: learning_rate=0.0001",
        ),
        ("max_steps", [5], r"max_steps: found \[5\], expected a whole number\n  fix: max_steps=5"),
        ("eval_metrics", [], r"eval_metrics: found \[\], expected a text\n  fix: leave eval_metrics out"),
    ],
)
def test_list_for_what_is_no_list_is_refused_by_name(name: str, value: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        list(train._words(name, value))


def test_interrupt_before_the_first_checkpoint_says_that_nothing_was_saved(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt, match="ended at once; nothing was saved"):
        train._raise([], 130, str(tmp_path / "output"), is_interrupted=True)


def test_interrupt_later_names_the_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-4").mkdir()
    with pytest.raises(KeyboardInterrupt, match=r"its last checkpoint, .*/checkpoint-4, is complete"):
        train._raise([], -2, str(tmp_path), is_interrupted=True)
