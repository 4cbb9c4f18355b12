"""A run says how often it is evaluated, whatever says so."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import TrainingArguments

from minicpmv.training.monitoring.intervals import describe_rhythm


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"eval_strategy": "no"}, "evaluation: once, at the end"),
        ({"eval_strategy": "epoch"}, "evaluation: in each epoch"),
        ({"eval_strategy": "steps", "eval_steps": 50}, "evaluation: every 50 steps"),
        ({"eval_strategy": "steps", "eval_steps": 0.25}, "evaluation: every 0.25 of the run"),
        ({"eval_strategy": "steps"}, "evaluation: every 500 steps"),  # --logging_steps of transformers
    ],
)
def test_evaluation_is_described_for_each_strategy(flags: dict[str, Any], said: str) -> None:
    assert describe_rhythm(TrainingArguments(use_cpu=True, **flags)) == said
